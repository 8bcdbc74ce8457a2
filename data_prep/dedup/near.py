"""Pairs of 64-bit hashes that differ in few bits, exactly, without comparing each with each.

Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling" (2007), section 3. Cut the 64 bits into k blocks.
Two hashes that differ in at most t bits differ in at most t blocks, as each differing bit lies in one block (the
pigeonhole principle); so they agree in all bits of at least k - t blocks, and thereby in some choice of k - t blocks.
For each of the C(k, k - t) choices, the hashes are sorted by the bits of those blocks, and only hashes that are equal
there are compared. Nothing is missed, whatever k is: k only trades the number of tables against the number of
comparisons, which is about n m / 2**b per table, b being the bits of the k - t blocks.

A pair may be equal in several choices. It is yielded for the first one alone (`_Table.is_first`).

In a table the bits of the chosen blocks stand first: every hash is rearranged so, and they are sorted as plain numbers.
Rearranging changes no distance, and which hash a number was is looked up again for the few that are near.

Memory: 32 bytes per hash, and windows of WINDOW hashes and CHUNK comparisons, however many are equal somewhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Final

import numpy as np

from data_prep.dedup.pattern import BITS, differing_bits

MAX_DISTANCE: Final = 12  # beyond, hashes of unrelated images are this near in a large corpus
WINDOW: Final = 1 << 22
CHUNK: Final = 1 << 20
_SORT_NS, _COMPARE_NS = 120.0, 15.0  # per hash and table, per comparison; only k depends on them

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # int64 i, int64 j, uint8 distance


@dataclass(frozen=True)
class _Table:
    """One choice of blocks.

    `moves`: (bits, up) of parts of a hash that keep together, and by how much they are shifted up, or, negative, down.
    `low`: the bits of a rearranged hash that are not of chosen blocks. `skipped`: in it, the blocks before the last
    chosen that are not chosen.
    """

    moves: tuple[tuple[int, int], ...]
    low: np.uint64
    skipped: tuple[np.uint64, ...]

    @classmethod
    def of(cls, edges: Sequence[int], chosen: Sequence[int]) -> "_Table":
        """`edges`: where the k blocks begin, ascending, and 64. `chosen`: of these."""
        moves: dict[int, int] = {}
        masks: dict[int, int] = {}
        rest = [block for block in range(len(edges) - 1) if block not in chosen]
        top = BITS
        for block in (*chosen, *rest):
            width = edges[block + 1] - edges[block]
            top -= width
            up, bits = top - edges[block], (1 << width) - 1
            moves[up] = moves.get(up, 0) | bits << edges[block]
            masks[block] = bits << top
        low = sum(masks[block] for block in rest)
        passed = (np.uint64(masks[block]) for block in rest if block < max(chosen))
        return cls(tuple((bits, up) for up, bits in moves.items()), np.uint64(low), tuple(passed))

    def rearranged(self, hashes: np.ndarray) -> np.ndarray:
        """uint64 [n], with the chosen blocks first; sorted."""
        moved = np.zeros_like(hashes)
        for start in range(0, len(hashes), WINDOW):
            for bits, up in self.moves:
                moved[start : start + WINDOW] |= _shifted(hashes[start : start + WINDOW] & np.uint64(bits), up)
        moved.sort()
        return moved

    def restored(self, moved: np.ndarray) -> np.ndarray:
        """The inverse, but for the order."""
        hashes = np.zeros_like(moved)
        for bits, up in self.moves:
            hashes |= _shifted(moved, -up) & np.uint64(bits)
        return hashes

    def is_first(self, difference: np.ndarray) -> np.ndarray:
        """bool [n]: whether this choice is the lexicographically first of those in which the pair is equal.

        That one consists of the first k - t blocks that are equal; so it is this, if and only if each block that this
        choice passes over before its last is unequal. `difference`: of rearranged hashes.
        """
        first = np.ones(len(difference), bool)
        for mask in self.skipped:
            first &= (difference & mask) != 0
        return first


def pairs_within(hashes: np.ndarray, distance: int) -> Iterator[Pairs]:
    """All pairs i < j of uint64 [n], no two of them equal, that differ in at most `distance` bits; each once."""
    if distance == 0 or len(hashes) < 2:
        return
    places = _Places(hashes)
    for table in _tables(len(hashes), len(hashes), distance):
        moved = table.rearranged(hashes)
        for low in range(0, len(moved), WINDOW):
            asked = moved[low : low + WINDOW]
            stops = _run_ends(asked, moved, low, table.low)
            starts = np.arange(low + 1, low + 1 + len(asked))
            for a, b in _compare(asked, moved, starts, stops, distance, table):
                i, j = places.of(table.restored(a)), places.of(table.restored(b))
                yield np.minimum(i, j), np.maximum(i, j), differing_bits(a, b)


def pairs_between(queries: np.ndarray, hashes: np.ndarray, distance: int) -> Iterator[Pairs]:
    """All (i, j) for which queries[i] and hashes[j] differ in at most `distance` bits; each once.

    Args:
        queries: uint64 [m], no two of them equal.
        hashes: uint64 [n], no two of them equal.
        distance: in bits.
    """
    if not len(queries) or not len(hashes):
        return
    asked_places, places = _Places(queries), _Places(hashes)
    for table in _tables(len(queries), len(hashes), distance):
        every, moved = table.rearranged(queries), table.rearranged(hashes)
        for low in range(0, len(every), WINDOW):
            asked = every[low : low + WINDOW]
            starts = np.searchsorted(moved, asked & ~table.low, "left")
            stops = np.searchsorted(moved, asked | table.low, "right")
            for a, b in _compare(asked, moved, starts, stops, distance, table):
                yield asked_places.of(table.restored(a)), places.of(table.restored(b)), differing_bits(a, b)


def nearest(queries: np.ndarray, hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of uint64 [m] the nearest of uint64 [n], the first of several equally near.

    Returns:
        int64 [m]: its place, or -1 where none is within `distance`.
        uint8 [m]: how many bits differ.
    """
    none = np.int64(np.iinfo(np.int64).max)
    best = np.full(len(queries), none)  # distance in the upper bits, place below: the least is the one
    for i, j, bits in pairs_between(queries, hashes, distance):
        np.minimum.at(best, i, bits.astype(np.int64) << 40 | j)
    found = best != none
    return np.where(found, best & ((1 << 40) - 1), -1), np.where(found, best >> 40, 0).astype(np.uint8)


def blocks_for(asked: int, held: int, distance: int) -> int:
    """The k for which so many hashes are compared with so many in the least time."""

    def cost(k: int) -> float:
        tables, bits = comb(k, distance), BITS * (k - distance) / k
        return tables * ((asked + held) * _SORT_NS + float(asked) * held / 2**bits * _COMPARE_NS)

    return min(range(distance + 1, distance + 9), key=cost)


class _Places:
    """Where hashes, all different, are in an array: 16 bytes each."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._order = np.argsort(hashes)
        self._sorted = hashes[self._order]

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """int64 [n]; all of them have to be there."""
        return self._order[np.searchsorted(self._sorted, hashes)]


def _tables(asked: int, held: int, distance: int) -> Iterator[_Table]:
    """A table for each choice of k - t of k blocks, in lexicographic order."""
    k = blocks_for(asked, held, distance)
    edges = [BITS * block // k for block in range(k + 1)]
    for chosen in combinations(range(k), k - distance):
        yield _Table.of(edges, chosen)


def _shifted(values: np.ndarray, up: int) -> np.ndarray:
    return values << np.uint64(up) if up >= 0 else values >> np.uint64(-up)


def _run_ends(window: np.ndarray, moved: np.ndarray, at: int, low: np.uint64) -> np.ndarray:
    """int64 [len(window)]: where in `moved`, sorted, of which the window begins at `at`, the rows end that are equal to
    each of the window's but for the bits `low`."""
    keys = window | low
    edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    last = int(np.searchsorted(moved, keys[-1], "right"))
    bounds = np.concatenate([[0], edges, [len(window)]])
    return np.repeat(np.concatenate([edges + at, [last]]), np.diff(bounds))


def _compare(
    asked: np.ndarray, held: np.ndarray, starts: np.ndarray, stops: np.ndarray, distance: int, table: _Table
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(asked[i], held[j]) with starts[i] <= j < stops[i] that are near enough, CHUNK comparisons at a time."""
    ends = np.cumsum(stops - starts)  # comparison number c is of the first i with c < ends[i]
    total = int(ends[-1])
    for low in range(0, total, CHUNK):
        high = min(total, low + CHUNK)
        first, last = np.searchsorted(ends, (low, high - 1), "right")
        of = ends[first : last + 1]
        counts = np.diff(np.minimum(of, high), prepend=low)
        a = np.repeat(asked[first : last + 1], counts)
        b = held[np.arange(low, high) - np.repeat(of - stops[first : last + 1], counts)]
        near = np.flatnonzero(differing_bits(a, b) <= distance)
        near = near[table.is_first(a[near] ^ b[near])]
        if len(near):
            yield a[near], b[near]
