"""Waiting for data, unless somebody says that there is no point any more."""

from collections.abc import Callable
from typing import Final

from pipeline.dataset.remote.patience import Patience

# Asked now and then while a rank waits, and has nothing else to do: whether to give up.
GiveUp = Callable[[], bool]
LOOK_S: Final = 0.5  # between two such questions
_SHARD_S: Final = 1800.0  # the least for a cache, which fetches whole shards


class GaveUp(Exception):
    """The data did not come in time. Of the loader that says so, nothing more can be had."""


def never() -> bool:
    """Data are waited for, however long it takes."""
    return False


def patience_s(retry_s: float, cached: bool) -> float:
    """Seconds after which a storage's answer is not waited for any longer, with `data.retry_s` and `data.cache`."""
    return max(_SHARD_S if cached else 0.0, 3 * Patience.lasting(retry_s).seconds)
