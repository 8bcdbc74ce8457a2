"""What ranks and jobs have printed: the end of a file, and what is added to it. Torch-free."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pipeline.cluster.job import submissions
from pipeline.dataset.errors import UsageError
from pipeline.run.directory import RunDirectory

_BLOCK: Final = 64 * 1024
_MOST: Final = 64 * 2**20  # bytes that are looked through for the last lines
_LOOK_S, _LOOK_AT_RUN_S = 0.5, 5.0


def rank_log(run: RunDirectory, attempt: int | None = None, rank: int = 0) -> Path:
    """The log of a rank, by default of the newest attempt. Raises UsageError where there is none."""
    attempts = run.attempts()
    if not attempts:
        raise UsageError(f"{run.path}: it has not started yet; see vitstream logs --job, or vitstream status")
    if attempt is not None and attempt not in attempts:
        raise UsageError(f"{run.path}: there is no attempt {attempt}; the last one is {attempts[-1]}")
    folder = run.attempt(attempts[-1] if attempt is None else attempt)
    path = folder / f"rank-{rank}.log"
    if not path.is_file():
        there = sorted(each.name for each in folder.glob("rank-*.log"))[:8]
        raise UsageError(f"{path}: there is none" + (f"; there are {', '.join(there)}" if there else " yet"))
    return path


def job_log(run: RunDirectory) -> Path:
    """The log of the newest job of the run's chain. Raises UsageError where there is none."""
    for submission in reversed(submissions(run.path)):
        for job in reversed(submission.jobs()):
            if submission.log(job).is_file():
                return submission.log(job)
    raise UsageError(f"{run.path}: no job of it has started yet; see vitstream status")


def awaited(find: Callable[[], Path], may_start: Callable[[], bool]) -> Path:
    """The log, once it is there. Raises UsageError where it never will be."""
    while True:
        try:
            return find()
        except UsageError:
            if not may_start():
                return find()  # it may have come, and gone, meanwhile
        time.sleep(_LOOK_S)


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """The last lines of a file, a torn one included; and where the file ended. Raises UsageError."""
    try:
        with path.open("rb") as file:
            end = start = file.seek(0, os.SEEK_END)
            text = b""
            while start > 0 and text.count(b"\n") <= count and end - start < _MOST:
                start = max(0, start - _BLOCK)
                file.seek(start)
                text = file.read(end - start)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    lines = text.removesuffix(b"\n").split(b"\n") if text else []
    return [_shown(line) for line in lines[max(0, len(lines) - count) :]], end


def follow(newest: Callable[[], Path], path: Path, end: int, goes_on: Callable[[], bool]) -> Iterator[str]:
    """Lines that are added to a log after `end`, until the run has ended; of the newest log, where that changes."""
    rest, looked = b"", time.monotonic()
    while True:
        with path.open("rb") as file:
            file.seek(end)
            added = file.read(_MOST)
        end += len(added)
        *lines, rest = (rest + added).split(b"\n")
        yield from map(_shown, lines)
        if added:
            continue
        if (now_newest := newest()) != path:
            yield f"-- {now_newest}"
            path, end, rest = now_newest, 0, b""
            continue
        if time.monotonic() - looked > _LOOK_AT_RUN_S:
            looked = time.monotonic()
            if not goes_on():
                break
        time.sleep(_LOOK_S)
    if rest:
        yield _shown(rest)


def _shown(line: bytes) -> str:
    """Of a progress bar what it said last."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace").expandtabs()
