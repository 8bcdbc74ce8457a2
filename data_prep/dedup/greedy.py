"""Which of many hashes stay: from the best down, each that is not near one that stays already.

Near is no equivalence: a may be near b and b near c, and a far from c. Were groups made of all that hangs together,
long chains would glue different pictures. Here what goes is always within the distance of something that stays, and no
two that stay are within it; the result depends on the order of quality alone.
"""

from itertools import pairwise
from typing import Final

import numpy as np

from data_prep.dedup.near import nearest, pairs_between, pairs_within

HELD_PAIRS: Final = 1 << 24  # in memory, 16 bytes each


def keep_best(hashes: np.ndarray, distance: int, held: int = HELD_PAIRS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chooses among uint64 [n], all different, the best first.

    Args:
        hashes: see above.
        distance: in bits.
        held: so many pairs are kept in memory; beyond, they are looked up anew in each round.

    Returns:
        bool [n]: which stay.
        int64 [n]: for each the nearest that stays, the best of several; itself where it stays.
        uint8 [n]: how far that is.

    With few pairs, one pass in order. With more, in rounds: among those still open, each that has no better one near it
    stays, as nothing can remove it any more, and what is near it goes. That is what the pass in order would decide, so
    the result is the same; the best one is decided in each round, so it ends; and a large cluster is gone in the first.
    """
    count = len(hashes)
    stays, linked = np.zeros(count, bool), np.zeros(count, bool)
    open_ = np.arange(count)
    while len(open_):
        undecided, pairs = _better(hashes[open_], distance, held)
        linked[open_[undecided.linked]] = True
        if pairs is not None:
            stays[open_] = _in_order(len(open_), *pairs)
            break
        free = ~undecided.has_better
        stays[open_[free]] = True
        rest, by = open_[~free], open_[free & undecided.linked]
        gone = np.zeros(len(rest), bool)
        for i, _, _ in pairs_between(hashes[rest], hashes[by], distance):
            gone[i] = True
        open_ = rest[~gone]
    return stays, *_nearest_that_stays(hashes, stays, linked, distance)


class _Links:
    """bool [n] each: `linked`, near any other; `has_better`, near a better one."""

    def __init__(self, count: int) -> None:
        self.linked, self.has_better = np.zeros(count, bool), np.zeros(count, bool)


def _better(hashes: np.ndarray, distance: int, held: int) -> tuple[_Links, tuple[np.ndarray, np.ndarray] | None]:
    """Who is near whom, and the pairs (better, worse) themselves if there are no more than `held`."""
    links, kept, total = _Links(len(hashes)), [(np.empty(0, np.int64),) * 2], 0
    for better, worse, _ in pairs_within(hashes, distance):
        links.linked[better] = links.linked[worse] = links.has_better[worse] = True
        total += len(better)
        if total <= held:
            kept.append((better, worse))
        else:
            kept.clear()
    if total > held:
        return links, None
    return links, (np.concatenate([b for b, _ in kept]), np.concatenate([w for _, w in kept]))


def _in_order(count: int, better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """bool [count]: the pass from the best down."""
    order = np.argsort(worse)
    better, worse = better[order], worse[order]
    edges = np.flatnonzero(np.concatenate([[True], worse[1:] != worse[:-1], [True]])) if len(worse) else worse
    stays = np.ones(count, bool)
    for start, stop in pairwise(edges.tolist()):
        if stays[better[start:stop]].any():
            stays[worse[start]] = False
    return stays


def _nearest_that_stays(
    hashes: np.ndarray, stays: np.ndarray, linked: np.ndarray, distance: int
) -> tuple[np.ndarray, np.ndarray]:
    place, far = np.arange(len(hashes)), np.zeros(len(hashes), np.uint8)
    gone, near = np.flatnonzero(~stays), np.flatnonzero(stays & linked)
    found, far[gone] = nearest(hashes[gone], hashes[near], distance)
    place[gone] = near[found]
    return place, far
