"""`vitstream submit --prep`: sharding as four SLURM jobs, of which each waits for the one before. Torch-free.

    plan      one process lists and plans
    stream    an array: pass 1 over what can only be streamed; has nothing to do for other sources
    shard     an array: the shards
    finalize  one process: catalogue, and the manifest last

A plan that fails takes the arrays with it. Nothing else does: a task of `shard` streams what its part of `stream` left
undone, and waits for the others'; `finalize` comes after whatever happened, and says what is missing.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.cluster import sbatch
from pipeline.dataset.errors import WorkFailed

SCRIPT: Final = "prep.sbatch"


@dataclass(frozen=True)
class Job:
    """One job of the chain: what it runs, and after which other."""

    name: str
    command: tuple[str, ...]
    after: str = ""  # of sbatch's --dependency, with {name} for a job's id
    array: str | None = None


@dataclass(frozen=True)
class Prep:
    """What is to be prepared, and with what. `arguments` are those of `vitstream shard`; `out` is one of them."""

    arguments: tuple[str, ...]
    out: str
    max_rejects: str | None
    tasks: int
    concurrent: int | None  # tasks at the same time; None: as many as the cluster gives
    resources: sbatch.Resources
    logs: Path

    def jobs(self) -> tuple[Job, ...]:
        """The chain, in order. Ours come before the arguments, among which may be `--`, after which none counts."""
        array = f"0-{self.tasks - 1}" + (f"%{self.concurrent}" if self.concurrent else "")
        rejects = () if self.max_rejects is None else (f"--max-rejects={self.max_rejects}",)
        return (
            Job("plan", ("shard", "--stop-after=plan", *self.arguments)),
            Job("stream", ("shard", "--stop-after=stream", *self.arguments), "afterok:{plan}", array),
            Job("shard", ("shard", *self.arguments), "afterok:{plan},afterany:{stream}", array),
            Job("finalize", ("finalize", *rejects, "--", self.out), "afterany:{shard}"),
        )

    def options(self, job: Job, ids: Mapping[str, int | str]) -> list[str]:
        """Of sbatch, for this job, where those before it have these ids."""
        name = "%x-%A_%a.log" if job.array else "%x-%j.log"
        options = [f"--job-name=prep-{job.name}", f"--output={sbatch.file_pattern(self.logs)}/{name}", "--export=ALL"]
        options += self.resources.options()
        if job.array:
            options.append(f"--array={job.array}")
        if job.after:
            options += [f"--dependency={job.after.format(**ids)}", "--kill-on-invalid-dep=yes"]
        return options


def submit(prep: Prep) -> dict[str, int]:
    """Submits the chain and returns the jobs' ids by their names.

    Raises:
        UsageError: there is no sbatch.
        WorkFailed: sbatch refused one, and those before it are cancelled; or the logs' folder cannot be made.
    """
    try:
        prep.logs.mkdir(parents=True, exist_ok=True)  # SLURM does not make it, and loses the log
    except OSError as error:
        raise WorkFailed(f"{prep.logs}: cannot be made ({error.strerror}); choose other --logs") from None
    script = str(sbatch.script(SCRIPT))
    ids: dict[str, int] = {}
    try:
        for job in prep.jobs():
            ids[job.name] = sbatch.queue(prep.options(job, ids), [script, *job.command])
    except BaseException:
        if ids:
            sbatch.cancel(list(ids.values()))
        with suppress(OSError):  # there are logs in it
            prep.logs.rmdir()
        raise
    return ids


def as_bash(prep: Prep) -> list[str]:
    """Lines of bash that would do the same as `submit`; the script that they submit is among them, as comments."""
    script = sbatch.script(SCRIPT)
    python = sbatch.environment()["VITSTREAM_PYTHON"]
    lines = [f"# {script}:", *(f"#   {line}".rstrip() for line in script.read_text().splitlines())]
    lines += [f"export VITSTREAM_PYTHON={sbatch.quote(python)}", f"mkdir -p -- {sbatch.quote(str(prep.logs))}"]
    ids = {job.name: f"${job.name}" for job in prep.jobs()}
    for job in prep.jobs():
        words = ["sbatch", "--parsable", *prep.options(job, ids), str(script), *job.command]
        quoted = [f'"{word}"' if word.startswith("--dependency=") else sbatch.quote(word) for word in words]
        lines.append(f"{job.name}=$({' '.join(quoted)})")
    return lines
