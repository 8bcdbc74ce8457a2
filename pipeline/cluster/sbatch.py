"""SLURM from outside: what a job may ask for, submitting it, and the scripts in slurm/. Torch-free.

Nothing is generated. A script is a file, what it runs travels as sbatch's own list of arguments, and no shell is
between: a name with a space, a quote or a line break in it arrives as it is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from pipeline.dataset.errors import UsageError, WorkFailed

# An array task that submits is no reason for its jobs to take themselves for one.
_OURS_ALONE: Final = ("SLURM_ARRAY_", "SLURM_RESTART_COUNT", "SBATCH_ARRAY")
_FORMS: Final = {
    "time": (r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", "minutes, hours:minutes:seconds or days-hours, as in 4:00:00"),
    "mem": (r"\d+[KMGT]?", "a number with K, M, G or T, as in 8G"),
    "partition": (r"\w[\w.+-]*(,\w[\w.+-]*)*", "a partition's name, as sinfo shows it"),
    "account": (r"\w[\w.@+-]*", "an account's name"),
}


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
        for name, (form, expected) in _FORMS.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(form, value, re.ASCII):
                raise UsageError(f"--{name} {value!r}: expected {expected}")

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
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS_ALONE)}
    return inherited | {"VITSTREAM_PYTHON": sys.executable}


def queue(options: Sequence[str], command: Sequence[str]) -> int:
    """Submits a script and its arguments, and returns the job's id.

    Raises:
        UsageError: there is no sbatch.
        WorkFailed: sbatch refused; the message is its own.
    """
    words = ["sbatch", "--parsable", *options, *command]
    try:
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise UsageError("sbatch: not found; submit where SLURM is, or see what it would be with --dry-run") from None
    number = re.match(r"\d+", done.stdout)  # ID, or ID;CLUSTER
    if done.returncode or not number:
        said = (line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines())
        raise WorkFailed(f"sbatch: {'; '.join(said) or f'ended with exit code {done.returncode}'}")
    return int(number[0])


def cancel(jobs: Sequence[int]) -> None:
    """Cancels these jobs, as far as they are there."""
    subprocess.run(["scancel", *map(str, jobs)], capture_output=True)


def file_pattern(folder: Path) -> str:
    """A folder as sbatch's --output takes it, which replaces %A and the like. Raises UsageError for what it garbles."""
    if "\\" in str(folder) or not str(folder).isprintable():
        raise UsageError(
            f"{folder}: SLURM takes no backslash or control character in a log's name; choose other --logs"
        )
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
