"""Pairs of 64-bit hashes that differ in few bits, exactly, without comparing each with each.

Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling" (2007), section 3. Cut the 64 bits into k blocks.
Two hashes that differ in at most t bits differ in at most t blocks, as each differing bit lies in one block (the
pigeonhole principle); so they agree in all bits of at least k - t blocks, and thereby in some choice of k - t blocks.
For each of the C(k, k - t) choices, the hashes are sorted by the bits of those blocks, and only hashes that are equal
there are compared. Nothing is missed, whatever k is: k only trades the number of tables against the number of
comparisons, which is about n m / 2**b per table, b being the bits of the k - t blocks.

A pair may be equal in several choices. It is yielded for the first one alone (`_Table.is_first`).

Memory: beside the hashes, one part of one table (PART_ROWS rows, some 40 bytes each) and one chunk of comparisons.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb, log2
from typing import Final

import numpy as np

from data_prep.dedup.pattern import BITS, differing_bits

MAX_DISTANCE: Final = 12  # beyond, hashes of unrelated images are this near in a large corpus
PART_ROWS: Final = 1 << 24
CHUNK: Final = 1 << 21
_SORT_NS, _COMPARE_NS = 120.0, 15.0  # per hash and table, per comparison; only k depends on them
_SPREAD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2**64 / golden ratio: multiplied by it, high bits are well mixed
_BLOCK_ROWS: Final = 1 << 22

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # int64 i, int64 j, uint8 distance


@dataclass(frozen=True)
class _Table:
    """One choice of blocks. `mask`: their bits. `skipped`: masks of the blocks before the last that are not chosen."""

    mask: np.uint64
    skipped: tuple[np.uint64, ...]

    def is_first(self, difference: np.ndarray) -> np.ndarray:
        """bool [n]: whether this choice is the lexicographically first of those in which the pair is equal.

        That one consists of the first k - t blocks that are equal; so it is this, if and only if each block that this
        choice passes over before its last is unequal.
        """
        first = np.ones(len(difference), bool)
        for mask in self.skipped:
            first &= (difference & mask) != 0
        return first


def pairs_within(hashes: np.ndarray, distance: int) -> Iterator[Pairs]:
    """All pairs i < j of uint64 [n], no two of them equal, that differ in at most `distance` bits; each once."""
    if distance == 0:
        return
    for table in _tables(len(hashes), len(hashes), distance):
        for rows in _parts(hashes, table.mask, len(hashes)):
            keys, rows = _sorted_by(hashes, rows, table.mask)
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]]))
            stops = np.repeat(starts[1:], np.diff(starts))
            found = _compare(hashes[rows], hashes[rows], np.arange(1, len(rows) + 1), stops, distance, table)
            for i, j, bits in found:
                a, b = rows[i], rows[j]
                yield np.minimum(a, b), np.maximum(a, b), bits


def pairs_between(queries: np.ndarray, hashes: np.ndarray, distance: int) -> Iterator[Pairs]:
    """All (i, j) for which queries[i] and hashes[j] differ in at most `distance` bits; each once.

    Args:
        queries: uint64 [m].
        hashes: uint64 [n].
    """
    if not len(queries) or not len(hashes):
        return
    for table in _tables(len(queries), len(hashes), distance):
        count = max(len(queries), len(hashes))
        parts = zip(_parts(queries, table.mask, count), _parts(hashes, table.mask, count), strict=True)
        for asked, rows in parts:
            keys, rows = _sorted_by(hashes, rows, table.mask)
            wanted, asked = _sorted_by(queries, asked, table.mask)
            starts, stops = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
            for i, j, bits in _compare(queries[asked], hashes[rows], starts, stops, distance, table):
                yield asked[i], rows[j], bits


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
    rows, every = max(2, asked, held), float(asked) * held

    def cost(k: int) -> float:
        tables, bits = comb(k, distance), BITS * (k - distance) / k
        return tables * (rows * (2.0 + log2(rows) / 20) * _SORT_NS + every / 2**bits * _COMPARE_NS)

    return min(range(distance + 1, distance + 9), key=cost)


def _tables(asked: int, held: int, distance: int) -> Iterator[_Table]:
    """A table for each choice of k - t of k blocks, in lexicographic order."""
    k = blocks_for(asked, held, distance)
    edges = [BITS * block // k for block in range(k + 1)]
    masks = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
    for chosen in combinations(range(k), k - distance):
        passed = [block for block in range(chosen[-1]) if block not in chosen]
        yield _Table(np.uint64(sum(masks[b] for b in chosen)), tuple(np.uint64(masks[b]) for b in passed))


def _parts(hashes: np.ndarray, mask: np.uint64, count: int) -> Iterator[np.ndarray]:
    """Row numbers, int64, in parts of some PART_ROWS; rows that are equal under the mask are in the same part."""
    bits = max(0, (max(1, count) - 1) // PART_ROWS).bit_length()
    if bits == 0:
        yield np.arange(len(hashes))
        return
    for part in range(1 << bits):
        found = []
        for start in range(0, len(hashes), _BLOCK_ROWS):
            keys = hashes[start : start + _BLOCK_ROWS] & mask
            keys *= _SPREAD
            keys >>= np.uint64(BITS - bits)
            found.append(np.flatnonzero(keys == part) + start)
        yield np.concatenate([np.empty(0, np.int64), *found])


def _sorted_by(hashes: np.ndarray, rows: np.ndarray, mask: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """(masked hashes, rows), by the former."""
    keys = hashes[rows] & mask
    order = np.argsort(keys)
    return keys[order], rows[order]


def _compare(
    asked: np.ndarray, held: np.ndarray, starts: np.ndarray, stops: np.ndarray, distance: int, table: _Table
) -> Iterator[Pairs]:
    """Pairs (i, j) with starts[i] <= j < stops[i] that are near enough, CHUNK comparisons at a time."""
    ends = np.cumsum(stops - starts)  # comparison number c is of the first i with c < ends[i]
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, CHUNK):
        high = min(total, low + CHUNK)
        first, last = np.searchsorted(ends, (low, high - 1), "right")
        of = ends[first : last + 1]
        counts = np.diff(np.minimum(of, high), prepend=low)
        i = np.repeat(np.arange(first, last + 1), counts)
        j = np.arange(low, high) - np.repeat(of - stops[first : last + 1], counts)
        near = np.flatnonzero(differing_bits(asked[i], held[j]) <= distance)
        i, j = i[near], j[near]
        difference = asked[i] ^ held[j]
        mine = table.is_first(difference)
        if mine.any():
            yield i[mine], j[mine], np.bitwise_count(difference[mine])
