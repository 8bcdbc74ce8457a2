"""Asks a run to save and end, from anywhere that sees its folder. Torch-free."""

import time
from pathlib import Path

from pipeline.config import load_config
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.run.directory import RunDirectory
from pipeline.run.stop_file import StopOrder
from pipeline.run.verdict import Verdict, read_verdict

_LOOK_S = 0.2
_GRACE_S = 20.0  # between a verdict and the end of all processes


def find_run(place: Path) -> RunDirectory:
    """The run of a folder, or of a YAML. Raises UsageError where there is none."""
    run = RunDirectory(place if place.is_dir() else load_config(place).run_dir)
    if not run.attempts():
        raise UsageError(f"{run.path}: there is no run in this folder, or it was never started")
    return run


def ask_to_stop(run: RunDirectory, order: StopOrder) -> str:
    """Writes RUN/STOP. Returns who will find it.

    Raises:
        UsageError: nobody would.
    """
    owner = run.owner()
    if owner is None:
        raise UsageError(f"{run.path}: no run is under way here, so there is none to stop")
    try:
        run.stop_file.write(order)
    except OSError as error:
        raise UsageError(f"{run.stop_file.path}: cannot be written ({error.strerror})") from None
    return owner


def wait_for_the_end(run: RunDirectory) -> Verdict:
    """The verdict on the attempt that is under way, once its processes have ended, so that the next can start.

    Raises:
        WorkFailed: they ended without one, or without everything saved.
    """
    attempt = run.attempt(run.attempts()[-1])
    while (verdict := read_verdict(attempt)) is None and run.owner() is not None:
        time.sleep(_LOOK_S)
    gone_by = time.monotonic() + _GRACE_S
    while run.owner() is not None and time.monotonic() < gone_by:
        time.sleep(_LOOK_S)
    verdict = verdict or read_verdict(attempt)
    if verdict is None:
        raise WorkFailed(f"{run.path}: ended without a word; see {attempt}")
    if not (verdict.is_of_a_stop or verdict.cause == "finished"):
        raise WorkFailed(verdict.message)
    return verdict
