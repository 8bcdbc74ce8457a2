"""Asks a run to save and end, from anywhere that sees its folder. Torch-free."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.cluster import chain, queue
from pipeline.cluster.job import submissions
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.run.directory import NO_LOCKS, RunDirectory
from pipeline.run.stop_file import StopOrder
from pipeline.run.verdict import Verdict, read_verdict

_LOOK_S: Final = 0.2
_LOOK_AT_QUEUE_S: Final = 5.0
_GRACE_S: Final = 20.0  # between a verdict and the end of all processes


@dataclass(frozen=True)
class Asked:
    """What was done about it."""

    words: str
    is_awaited: bool  # somebody will find the order


def find_run(place: Path) -> RunDirectory:
    """The run of a folder, or of a YAML. Raises UsageError where there is none."""
    run = RunDirectory(place if place.is_dir() else load_config(place).run_dir)
    if not run.attempts() and not submissions(run.path):
        raise UsageError(f"{run.path}: there is no run in this folder, or it was never started")
    return run


def ask_to_stop(run: RunDirectory, order: StopOrder) -> Asked:
    """Writes RUN/STOP; or, where all that there is of the run waits in a queue, takes it from there.

    Raises:
        UsageError: nothing of it is under way.
        WorkFailed: SLURM does not answer.
    """
    owner = run.owner()
    running, waiting = _jobs(run)
    if waiting and not running and owner in (None, NO_LOCKS) and order.after_step is None:
        cancelled = chain.cancel_waiting(run.path)
        running, waiting = _jobs(run)  # one of them may have started just now
        if not running:
            return Asked(f"cancelled, before any had started: {_names(cancelled)}", is_awaited=False)
    if owner is None and not running and not waiting:
        raise UsageError(f"{run.path}: no run is under way here, so there is none to stop")
    try:
        run.stop_file.write(order)
    except OSError as error:
        raise UsageError(f"{run.stop_file.path}: cannot be written ({error.strerror})") from None
    who = owner or f"{_names([job.id for job in waiting])}, once started,"
    if running:
        who = _names([job.id for job in running])
    when = "now" if order.after_step is None else f"after step {order.after_step:,}"
    return Asked(f"{who} was asked to save and end {when}", is_awaited=True)


def is_under_way(run: RunDirectory) -> bool:
    """Whether somebody has the run, or a job of its chain runs. Where SLURM does not answer, only the first counts."""
    if run.owner() is not None:
        return True
    try:
        return bool(_jobs(run)[0])
    except queue.NoAnswer:
        return False


def may_start(run: RunDirectory) -> bool:
    """Whether somebody has the run, or a job of its chain runs, or waits."""
    if run.owner() is not None:
        return True
    try:
        return any(_jobs(run))
    except queue.NoAnswer:
        return False


def wait_for_the_end(run: RunDirectory) -> Verdict:
    """The verdict on the attempt that is under way, once its processes have ended, so that the next can start.

    Raises:
        WorkFailed: they ended without one, or without everything saved.
    """
    told: float | None = None  # since when there has been a verdict on the newest attempt
    while is_under_way(run):
        told = (told or time.monotonic()) if _newest_verdict(run) else None
        if told is not None and time.monotonic() - told > _GRACE_S:
            break
        time.sleep(_LOOK_S if run.owner() is not None else _LOOK_AT_QUEUE_S)
    verdict = _newest_verdict(run)
    if verdict is None:
        raise WorkFailed(f"{run.path}: ended without a word; see {run.path / 'attempts'}")
    if not (verdict.is_of_a_stop or verdict.cause == "finished"):
        raise WorkFailed(verdict.message)
    return verdict


def _newest_verdict(run: RunDirectory) -> Verdict | None:
    attempts = run.attempts()
    return read_verdict(run.attempt(attempts[-1])) if attempts else None


def _jobs(run: RunDirectory) -> tuple[list[queue.Job], list[queue.Job]]:
    """Of the run's chain, those that run, and those that wait. Raises queue.NoAnswer."""
    if not submissions(run.path):
        return [], []
    if not queue.is_here():  # the file STOP does without
        return [], []
    jobs = chain.jobs(run.path)
    return [job for job in jobs if job.is_running], [job for job in jobs if job.is_waiting]


def _names(jobs: list[int]) -> str:
    return f"job{'s' if len(jobs) > 1 else ''} {', '.join(map(str, jobs))}"
