"""Append-only JSON lines: metrics.jsonl, digest.jsonl, holes.jsonl. Torch-free.

All attempts of a run write into the same files. A kill may tear the last line; the next attempt cuts it off. Steps
that are done again after a resume are written again: of a repeated step the last line counts.
"""

import json
import math
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

_STEP = re.compile(rb'"step": (\d+)')


class JsonLines:
    """A file of JSON objects, one a line, that only grows. One writer. What the disk refuses waits for the next try."""

    def __init__(self, path: Path) -> None:
        """Opens `path` for appending, cutting a torn last line first."""
        cut_torn_line(path)
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def add(self, objects: Iterable[dict[str, Any]]) -> None:
        """Keeps objects for the next `sync`. JSON has no NaN, so a number that is not finite is written as text."""
        self._unwritten += b"".join(json.dumps(_finite(o)).encode() + b"\n" for o in objects)

    def sync(self) -> None:
        """Appends what was added, and makes it survive a power cut.

        Raises:
            OSError: the disk is full, say. Nothing is lost or half written: the next `sync` tries again.
        """
        if not self._unwritten:
            return
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(self._unwritten):
                written += self._file.write(self._unwritten[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), end)
            raise
        self._unwritten = b""

    def close(self) -> None:
        self._file.close()


def cut_torn_line(path: Path) -> None:
    """Truncates a file of lines after its last newline; creates it where it is missing."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        keep, block = end, 4096
        while keep > 0:
            start = max(0, keep - block)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """All complete lines of a file, in order; nothing where there is none."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def read_steps(path: Path) -> dict[int, dict[str, Any]]:
    """step -> its last line, of metrics.jsonl; evaluations left out."""
    return {line["step"]: line for line in read_lines(path) if "eval" not in line}


def has_evaluation(path: Path, step: int) -> bool:
    """Whether metrics.jsonl has an evaluation of the state after `step`, behind the last line of that step itself."""
    found = False
    if path.exists():
        mark = f'"step": {step},'.encode()
        with path.open("rb") as file:
            for line in file:
                if mark in line and line.endswith(b"\n"):  # of all others, the JSON is not read
                    found = "eval" in json.loads(line)
    return found


def lines_of_steps(path: Path, steps: Container[int]) -> Iterator[dict[str, Any]]:
    """Lines about some steps, evaluations included, in order. Only these are parsed: a long run has millions."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            found = _STEP.search(line)
            if found and int(found[1]) in steps and line.endswith(b"\n"):
                yield json.loads(line)


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
