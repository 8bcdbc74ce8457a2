"""How a quantity is spread over millions of images: exact extremes and sum, and a count for each value.

Of a value twelve binary digits are kept: below 4,096 each is itself, above it is rounded down by 0.05 % at most. So a
distribution stays small whatever the corpus, and two of them add up.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

DIGITS: Final = 12  # binary ones that are kept of a value
PERCENTS: Final = (1, 5, 25, 50, 75, 95, 99)
_MAX_BINS: Final = 32


@dataclass
class Distribution:
    """Non-negative integers. `counts`: how many there are of each value, the value rounded down by `coarse`."""

    counts: dict[int, int] = field(default_factory=dict)
    least: int = 0
    most: int = 0
    total: int = 0

    @property
    def number(self) -> int:
        """How many values there are."""
        return sum(self.counts.values())

    def add(self, other: "Distribution") -> None:
        """Takes in another's values."""
        if not other.counts:
            return
        self.least = min(self.least, other.least) if self.counts else other.least
        self.most = max(self.most, other.most)
        self.total += other.total
        for value, count in other.counts.items():
            self.counts[value] = self.counts.get(value, 0) + count

    def add_values(self, values: np.ndarray) -> None:
        """Takes in int64 [n]."""
        if len(values) == 0:
            return
        found, counts = np.unique(coarse(values), return_counts=True)
        by_value = dict(zip(found.tolist(), counts.tolist(), strict=True))
        self.add(Distribution(by_value, int(values.min()), int(values.max()), int(values.sum())))

    def quantiles(self, percents: Sequence[float] = PERCENTS) -> list[int]:
        """The smallest value that p % of all do not exceed, for each p in ascending order."""
        found: list[int] = []
        below, number = 0, self.number
        for value in sorted(self.counts):
            below += self.counts[value]
            while len(found) < len(percents) and below >= max(1, math.ceil(number * percents[len(found)] / 100)):
                found.append(min(max(value, self.least), self.most))
        return found

    def histogram(self, edges: Sequence[int]) -> list[tuple[int, int, int]]:
        """(from, below, how many) for each bin; edges that `nice_edges` gave make the counts exact."""
        values = np.array(sorted(self.counts), np.int64)
        counts = np.array([self.counts[value] for value in values.tolist()], np.int64)
        starts = np.searchsorted(values, np.array(edges, np.int64))
        sums = np.concatenate([[0], np.cumsum(counts)])[starts]
        return [(a, b, int(n)) for (a, b), n in zip(pairwise(edges), np.diff(sums).tolist(), strict=True)]


def coarse(values: np.ndarray) -> np.ndarray:
    """int64 [n], rounded down to DIGITS binary digits."""
    shift = np.maximum(np.frexp(values)[1] - DIGITS, 0).astype(np.int64)  # frexp's exponent: the number of digits
    return values >> shift << shift


def coarse_sql(value: str) -> str:
    """`coarse` in SQL. The logarithm of an integer below 2**48 is never so near a whole number that it rounds to it."""
    return f"({value}) - ({value}) % (1::BIGINT << greatest(0, floor(log2(greatest(1, {value})))::INT - {DIGITS - 1}))"


def wide_range(*quantities: Distribution) -> bool:
    """Whether these, shown side by side, are so far apart that equal steps would show little of what lies between."""
    low, high = min(q.least for q in quantities), max(q.most for q in quantities)
    return high > 20 * max(1, low)


def nice_edges(values: Distribution, wide: bool) -> list[int]:
    """Edges of at most some thirty bins that hold every value: equal steps of 1, 2 or 5 times a power of ten, or where
    they span a `wide` range equal ratios."""
    low, high = values.least, values.most
    if wide:
        count = min(_MAX_BINS, math.ceil(16 * math.log10((high + 1) / max(1, low))))
        ratio = (high + 1) / max(1, low)
        edges = [0 if low == 0 else low, *(round(max(1, low) * ratio ** (n / count)) for n in range(1, count))]
    else:
        raw = max(1.0, (high - low) / (_MAX_BINS - 2))
        power = 10 ** math.floor(math.log10(raw))
        step = int(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw))
        edges = list(range(low // step * step, high + 1, step))
    return _on_grid([*edges, high + 1], values)


def ratio_edges(values: Distribution) -> list[int]:
    """Edges for thousandths of width over height: six bins to a doubling, 1:1 in the middle of one."""
    inner = [round(1000 * 2 ** ((2 * n - 1) / 12)) for n in range(-18, 20)]
    kept = [edge for edge in inner if values.least < edge <= values.most]
    return _on_grid([values.least, *kept, values.most + 1], values)


def _on_grid(edges: Iterable[int], values: Distribution) -> list[int]:
    """The same, at values that `coarse` leaves alone, so that no count straddles an edge; the last one beyond all."""
    *inner, end = (int(edge) for edge in edges)
    rounded = coarse(np.array(inner, np.int64)).tolist()
    return [*sorted({edge for edge in rounded if edge < end}), max(end, int(coarse(np.array([values.most]))[0]) + 1)]
