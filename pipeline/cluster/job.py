"""RUN/submit/NNN/: what a chain of jobs was submitted with. Torch-free.

code/        the packages as they were          config.yaml   resolved, its paths absolute
job.json     a JobFile                          jobs          ids, one a line, as they were queued
job-ID.log   what each job's batch script said
"""

import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.config_tree import Positive
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import fsync_directory, is_plain_name, open_regular, write_json

JOB_FILE: Final = "job.json"
_MOST_BYTES: Final = 2**20
_NUMBER: Final = re.compile(r"\d{3,}")


@dataclass(frozen=True)
class JobFile:
    """What slurm/train.sbatch and the supervisor have to know."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    run_dir: str  # absolute
    config: str  # name of a file beside this one
    python: str  # of the ranks
    container: tuple[str, ...]  # words before it
    nodes: Positive
    tasks_per_node: Positive
    gpus_per_node: Positive | None
    cpus_per_task: Positive | None
    lead_s: Positive  # before the time limit at which SLURM says so
    chain: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]  # name of the jobs
    attempts: Positive
    without_progress: Positive
    accept_changes: bool
    from_scratch: bool
    version: Literal[1] = 1

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    def to_json(self) -> dict[str, Any]:
        whole = asdict(self) | {"container": list(self.container)}
        return {"version": whole.pop("version"), **whole}

    def write(self, path: Path) -> None:
        """Raises OSError."""
        write_json(path, self.to_json())
        path.chmod(0o600)


_TYPES: Final = TypeAdapter(JobFile)


def read_job(path: Path) -> JobFile:
    """A job.json, every key of which is there and of its type.

    Raises:
        UsageError: one line that names the file and the key.
    """
    try:
        with open_regular(path) as file:
            text = file.read(_MOST_BYTES)
        job = _TYPES.validate_json(text, strict=True)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "no JSON object"
        raise UsageError(f"{path}: {key}: {first['msg']}") from None
    if not is_plain_name(job.config) or not Path(job.run_dir).is_absolute() or "\0" in job.run_dir:
        raise UsageError(f"{path}: config is a name, and run_dir a whole path")
    return job


@dataclass(frozen=True)
class Submission:
    """RUN/submit/NNN."""

    path: Path

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def job_file(self) -> Path:
        return self.path / JOB_FILE

    @property
    def script(self) -> Path:
        return self.code / "pipeline" / "slurm" / "train.sbatch"

    @property
    def ended(self) -> Path:
        """What the last job that ended came to."""
        return self.path / "ended.json"

    def log(self, job: int) -> Path:
        return self.path / f"job-{job}.log"

    def jobs(self) -> list[int]:
        """Ids of the jobs queued so far, in order."""
        with suppress(OSError):
            lines = (self.path / "jobs").read_text(errors="replace").split("\n")[:-1]  # a torn last line is none
            return [int(line) for line in lines if re.fullmatch(r"\d{1,18}", line, re.ASCII)]
        return []

    def add_job(self, job: int) -> None:
        """Appends an id, durably. Raises OSError."""
        fd = os.open(self.path / "jobs", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"%d\n" % job)
            os.fsync(fd)
        finally:
            os.close(fd)
        fsync_directory(self.path)


def submissions(run: Path) -> list[Submission]:
    """All of a run, oldest first."""
    folder = run / "submit"
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NUMBER.fullmatch(path.name) and path.is_dir()]
    return [Submission(path) for path in sorted(found, key=lambda path: int(path.name))]


def next_submission(run: Path) -> Submission:
    """The folder that the next one would be, absolute."""
    number = max((int(each.path.name) for each in submissions(run)), default=-1) + 1
    return Submission(run.absolute() / "submit" / f"{number:03d}")
