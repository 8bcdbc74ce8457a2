"""A host that is slower than the others, so that all wait for it. Torch-free.

Training is synchronous: every rank's step takes as long as the slowest one's. So what is compared is the time that a
host's slowest rank needs before it waits for anybody: its data, and its forward passes (meter.py).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

FACTOR: Final = 1.25  # times the median of the others
SHARE: Final = 0.05  # of the step, at least, that is lost by it
STREAK: Final = 3  # flushes in a row, each of which says so of the same host
_QUIET: Final = 50  # flushes before it is said again


@dataclass(frozen=True)
class SlowHost:
    host: str
    own_s: float  # of a step
    median_s: float  # of the others
    others: int

    def __str__(self) -> str:
        others = "the other host" if self.others == 1 else f"the median of the other {self.others} hosts"
        times = f"{self.own_s / self.median_s:.1f} times {others}" if self.median_s else f"{others} takes none"
        return f"host {self.host} is slow: its data and forward take {self.own_s:.3f} s of a step, {times}"


def slow_host(flushes: Sequence[dict[str, Any]]) -> SlowHost | None:
    """The host that is slow in each of the last STREAK lines of metrics.jsonl with `hosts`, as it is in the last."""
    found = [_slowest(line) for line in flushes if "hosts" in line][-STREAK:]
    last = found[-1] if len(found) == STREAK else None
    return last if last and all(each and each.host == last.host for each in found) else None


def _slowest(line: dict[str, Any]) -> SlowHost | None:
    (host, own_s), *others = sorted(line["hosts"].items(), key=lambda each: -each[1])
    if not others:
        return None
    found = SlowHost(host, own_s, median(seconds for _, seconds in others), len(others))
    lost_s = own_s - found.median_s
    return found if own_s > FACTOR * found.median_s and lost_s > SHARE * line["step_s"] else None


class SlowHosts:
    """Says it while a run goes on, seldom enough to be read."""

    def __init__(self) -> None:
        self._flushes: deque[dict[str, Any]] = deque(maxlen=STREAK)
        self._quiet = 0  # flushes to come for which nothing is said

    def see(self, line: dict[str, Any]) -> SlowHost | None:
        """Takes the last line of a flush. Returns what is to be said, if anything."""
        self._flushes.append(line)
        self._quiet = max(0, self._quiet - 1)
        if self._quiet or not (found := slow_host(self._flushes)):
            return None
        self._quiet = _QUIET
        return found
