"""What every fault matrix is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Matrix:
    """A fault matrix.

    `trials(count, seed)` lists at least `count` faults' worth of trials, each a JSON object with the same content
    every time; `run(trial, folder)` does one in an empty folder, raises AssertionError where the promise is broken,
    and returns what happened, with at least {"faults": how many}.
    """

    name: str
    promise: str
    default_faults: int
    trials: Callable[[int, int], list[dict[str, Any]]]
    run: Callable[[dict[str, Any], Path], dict[str, Any]]
