"""SLURM from outside: what a job may ask for, submitting it, and the scripts in slurm/. Torch-free.

Nothing is generated. A script is a file, what it runs travels as sbatch's own list of arguments, and no shell is
between: a name with a space, a quote or a line break in it arrives as it is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pipeline.cluster.forms import complaint
from pipeline.dataset.errors import UsageError, WorkFailed

# Who submits from within a job hands nothing of it on: its array, its restarts, its resources.
_OURS_ALONE: Final = ("SLURM_", "SBATCH_ARRAY")
_EVERYONES: Final = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_DEBUG")


@dataclass(frozen=True)
class Resources:
    """What each job asks for. None: what the cluster gives by default."""

    time: str
    cpus_per_task: int
    mem: str
    partition: str | None = None
    account: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError naming the option that is not of SLURM's form."""
        for name in ("time", "mem", "partition", "account"):
            value = getattr(self, name)
            if value is not None and (wrong := complaint(name, value)):
                raise UsageError(f"--{name} {wrong}")

    def options(self) -> Iterator[str]:
        """As options of sbatch."""
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None:
                yield f"--{field.name.replace('_', '-')}={value}"


def script(name: str) -> Path:
    """slurm/NAME, which travels inside an installed wheel."""
    here = Path(__file__).parent.parent
    return next(path for path in (here / "slurm" / name, here.parent / "slurm" / name) if path.is_file())


def environment() -> dict[str, str]:
    """What jobs inherit: all of ours, and which Python has vitstream."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_EVERYONES) or not name.startswith(_OURS_ALONE)
    }
    return inherited | {"VITSTREAM_PYTHON": sys.executable}


def queue(options: Sequence[str], command: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})) -> int:
    """Submits a script and its arguments, and returns the job's id. `variables`: for the job, besides ours.

    Raises:
        UsageError: there is no sbatch.
        WorkFailed: sbatch refused; the message is its own.
    """
    done = run(["--parsable", *options, *command], variables)
    number = re.match(r"\d+", done.stdout)  # ID, or ID;CLUSTER
    if done.returncode or not number:
        raise WorkFailed(f"sbatch: {said(done) or f'ended with exit code {done.returncode}'}")
    return int(number[0])


def run(words: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    """sbatch with these words, waited for. Raises UsageError where there is none."""
    environ = environment() | dict(variables)
    try:
        return subprocess.run(["sbatch", *words], env=environ, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise UsageError("sbatch: not found; submit where SLURM is, or see what it would be with --dry-run") from None


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What one of SLURM's commands had to say, as one line."""
    return "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines())


def cancel(jobs: Sequence[int]) -> None:
    """Cancels these jobs, as far as they are there."""
    if jobs:
        subprocess.run(["scancel", *map(str, jobs)], capture_output=True)


def file_pattern(folder: Path, instead: str = "choose other --logs") -> str:
    """A folder as sbatch's --output takes it, which replaces %A and the like. Raises UsageError for what it garbles."""
    if "\\" in str(folder) or not str(folder).isprintable():
        raise UsageError(f"{folder}: SLURM takes no backslash or control character in a log's name; {instead}")
    return str(folder).replace("%", "%%")


def quote(word: str) -> str:
    """A word for bash that stands for exactly this, on one line of valid UTF-8, whatever is in it."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII):
        return word
    if word.isprintable() and word:
        return "'" + word.replace("'", "'\\''") + "'"
    # $'...' takes bytes as \xNN. Surrogates are what the bytes of an argument became that are no valid UTF-8.
    return "$'" + "".join(_ansi_c(character) for character in word) + "'"


def _ansi_c(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
