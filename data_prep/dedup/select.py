"""Which images stay, and for each that goes, what it duplicates.

Three relations: equal bytes, equal pixels, near. Equal bytes have equal pixels, and those equal patterns; so within the
corpus it is enough to make groups by pattern (flat and unreadable images, whose pattern says nothing: by pixels), take
the best of each group, and choose among those. A million blank images are one row there.

Against an evaluation set nothing is chosen: every image that equals one of its images, or is near to one, goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from data_prep.common.keylists import contains
from data_prep.dedup.greedy import keep_best
from data_prep.dedup.hashes import HASHED, Hashes
from data_prep.dedup.near import nearest
from data_prep.dedup.pattern import differing_bits

BYTES, PIXELS, NEAR = range(3)
KINDS: Final = ("bytes", "pixels", "near")


@dataclass(frozen=True)
class Matches:
    """Images that go, by number, ascending, each with the one that it duplicates.

    `dropped` int64 [n]; `other` int64 [n], of the corpus, or of the evaluation set; `kind` uint8 [n], of KINDS;
    `distance` uint8 [n], 0 for equal pixels.
    """

    dropped: np.ndarray
    other: np.ndarray
    kind: np.ndarray
    distance: np.ndarray

    def count(self, kind: int) -> int:
        """How many are of a kind."""
        return int(np.count_nonzero(self.kind == kind))


@dataclass(frozen=True)
class Selection:
    """`keep` bool [n]; `against`, for each evaluation set; `within`, among what these leave; `groups` of these."""

    keep: np.ndarray
    against: tuple[Matches, ...]
    within: Matches

    @property
    def groups(self) -> int:
        """How many images stay of which there are duplicates in the corpus."""
        return len(np.unique(self.within.other))


def select(corpus: Hashes, evaluation: Sequence[Hashes], distance: int | None) -> Selection:
    """Chooses. `distance` None: equal bytes and pixels only."""
    against = tuple(_against(corpus, hashes, distance) for hashes in evaluation)
    keep = np.ones(len(corpus), bool)
    for matches in against:
        keep[matches.dropped] = False
    within = _within(corpus, np.flatnonzero(keep), distance)
    keep[within.dropped] = False
    return Selection(keep, against, within)


def _within(corpus: Hashes, images: np.ndarray, distance: int | None) -> Matches:
    """Among these images."""
    images = images[corpus.take(images).by_quality()] if len(images) < len(corpus) else corpus.by_quality()
    by = _best_of_group(corpus, images)
    if distance:
        heads = images[(by == images) & (corpus.state[images] == HASHED)]
        _, place, _ = keep_best(corpus.pattern[heads], distance)
        nearest_kept = np.arange(len(corpus))
        nearest_kept[heads] = heads[place]
        by = nearest_kept[by]
    gone = images != by
    order = np.argsort(images[gone])
    return _described(corpus, corpus, images[gone][order], by[gone][order])


def _best_of_group(corpus: Hashes, images: np.ndarray) -> np.ndarray:
    """int64 [n]: for each of these images, the best first, the first one of the same pattern, or else pixels."""
    hashed = corpus.state[images] == HASHED
    high = np.where(hashed, corpus.pattern[images], corpus.pixels_high[images])
    low = np.where(hashed, 0, corpus.pixels_low[images])
    return images[_first_equal((high, low, hashed))]


def _against(corpus: Hashes, evaluation: Hashes, distance: int | None) -> Matches:
    other = np.full(len(corpus), -1)
    if distance is not None:
        readable = np.flatnonzero(evaluation.state == HASHED)
        patterns, first = np.unique(evaluation.pattern[readable], return_index=True)
        mine = np.flatnonzero(corpus.state == HASHED)
        asked, group = np.unique(corpus.pattern[mine], return_inverse=True)
        place, _ = nearest(asked, patterns, distance)
        if len(readable):
            other[mine] = np.where(place >= 0, readable[first[place]], -1)[group]
    for columns in (("pixels_high", "pixels_low"), ("bytes", "size", "pixels_high", "pixels_low")):
        found = _equal_rows([getattr(corpus, c) for c in columns], [getattr(evaluation, c) for c in columns])
        other = np.where(found >= 0, found, other)
    dropped = np.flatnonzero(other >= 0)
    return _described(corpus, evaluation, dropped, other[dropped])


def _described(corpus: Hashes, others: Hashes, dropped: np.ndarray, other: np.ndarray) -> Matches:
    def same(column: str) -> np.ndarray:
        return getattr(corpus, column)[dropped] == getattr(others, column)[other]

    pixels = same("pixels_high") & same("pixels_low")
    same_bytes = pixels & same("bytes") & same("size")
    kind = np.where(same_bytes, BYTES, np.where(pixels, PIXELS, NEAR)).astype(np.uint8)
    bits = differing_bits(corpus.pattern[dropped], others.pattern[other])
    return Matches(dropped, other, kind, np.where(pixels, 0, bits).astype(np.uint8))


def _first_equal(columns: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [n]: for each row, the first that equals it in all columns."""
    order = np.lexsort(columns)  # stable: equal rows stay in their order
    starts = np.zeros(len(order), bool)
    starts[:1] = True
    for column in columns:
        ordered = column[order]
        starts[1:] |= ordered[1:] != ordered[:-1]
    first = np.empty(len(order), np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def _equal_rows(asked: Sequence[np.ndarray], held: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [n]: for each row of `asked`, the first of `held` that equals it in all columns, or -1."""
    found = np.full(len(asked[0]), -1)
    candidates = np.flatnonzero(contains(np.sort(held[0]), asked[0]))
    count = len(held[0])
    joined = [np.concatenate([h, a[candidates]]) for h, a in zip(held, asked, strict=True)]
    first = _first_equal(joined)[count:]
    found[candidates] = np.where(first < count, first, -1)
    return found
