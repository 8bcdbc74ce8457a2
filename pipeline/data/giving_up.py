"""Waiting for data, unless somebody says that there is no point any more."""

from collections.abc import Callable
from typing import Final

# Asked now and then while a rank waits, and has nothing else to do: whether to give up.
GiveUp = Callable[[], bool]
LOOK_S: Final = 0.5  # between two such questions


class GaveUp(Exception):
    """The data did not come in time. Of the loader that says so, nothing more can be had."""


def never() -> bool:
    """Data are waited for, however long it takes."""
    return False
