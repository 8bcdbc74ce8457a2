"""What is asked over a network, counted; and when an answer takes so long that a second request is worth its price."""

import threading
from collections import deque
from collections.abc import Iterable
from math import inf
from statistics import median
from typing import Final, NamedTuple

_LONG_AT_LEAST_S: Final = 1.0
_LONG: Final = 4.0  # medians
_SIZE: Final = 2**20  # bytes, that take about as long as the way there and back
_REMEMBERED: Final = 64  # requests, of which the median is taken
_ONE_HEDGE_IN: Final = 20  # requests


class Fetched(NamedTuple):
    """What came over a network, for as long as it was counted."""

    requests: int = 0  # those that failed, and second ones, included
    bytes: int = 0  # of whole answers
    retries: int = 0

    @classmethod
    def total(cls, counts: "Iterable[Iterable[int]]") -> "Fetched":
        """All of it together."""
        return cls(*map(sum, zip(cls(), *counts, strict=True)))

    def since(self, before: "Fetched") -> "Fetched":
        """What came after `before`."""
        return Fetched(*(now - earlier for now, earlier in zip(self, before, strict=True)))


class Traffic:
    """Counters of one storage, added to by all threads. `hedges`: allow second requests, one in 20 at most."""

    def __init__(self, hedges: bool = False) -> None:
        self._lock = threading.Lock()
        self._may_hedge = hedges
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._long = 0.0  # seconds, of an answer of no bytes
        self.requests = self.bytes = self.retries = self.hedges = 0
        self.seconds = 0.0  # of waiting for answers, all threads together

    @property
    def fetched(self) -> Fetched:
        """Since it was made."""
        return Fetched(self.requests, self.bytes, self.retries)

    def asked(self) -> None:
        """A request goes out."""
        with self._lock:
            self.requests += 1

    def again(self) -> None:
        """One that failed will be repeated."""
        with self._lock:
            self.retries += 1

    def long_s(self, size: int) -> float:
        """An answer of `size` bytes takes long after so many seconds."""
        return max(_LONG_AT_LEAST_S, self._long * (1 + size / _SIZE)) if self._may_hedge else inf

    def hedge(self) -> bool:
        """Whether a second request for the same may go out now; it is counted."""
        with self._lock:
            if not self._may_hedge or self.hedges > self.requests // _ONE_HEDGE_IN:
                return False
            self.hedges += 1
            self.requests += 1
            return True

    def answered(self, seconds: float, size: int) -> None:
        """An answer has come, whole."""
        with self._lock:
            self.bytes += size
            self.seconds += seconds
            self._times.append(seconds / (1 + size / _SIZE))
            self._long = _LONG * median(self._times) if self._may_hedge else inf
