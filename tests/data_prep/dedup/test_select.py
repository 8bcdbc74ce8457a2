"""Which images stay, against the definition written out as loops over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup.hashes import FLAT, HASHED, UNHASHED, Hashes
from data_prep.dedup.select import BYTES, NEAR, PIXELS, Matches, select

pytestmark = pytest.mark.fast


def hashes(seed: int, count: int, exact_only: bool = False) -> Hashes:
    """Of few different pictures: few patterns, of each few pixels, of those few files."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 8, count)
    pattern = np.array([0, 1, 3, 7, 15, 255, 2**64 - 1, 2**63], np.uint64)[picture]
    flat = rng.random(count) < 0.2
    pattern[flat] = 0
    high = (4 * picture + 2 * flat).astype(np.uint64) + rng.integers(0, 2, count, np.uint64)
    low = np.where(rng.random(count) < 0.1, 1, 0).astype(np.uint64) + high  # the upper halves may be equal alone
    data = low * np.uint64(2) + rng.integers(0, 2, count, np.uint64)
    size = (100 + data % np.uint64(3)).astype(np.uint32)
    area = (high % np.uint64(5) * np.uint64(100)).astype(np.uint32)
    state = np.where(flat, FLAT, HASHED).astype(np.uint8)
    if exact_only:
        state[:], pattern[:] = UNHASHED, 0
    return Hashes(rng.integers(0, 2**64, count, np.uint64), data, size, high, low, area, pattern, state)


def relation(a: Hashes, i: int, b: Hashes, j: int, distance: int | None) -> tuple[int, int] | None:
    """(kind, distance), or None where the two images are different ones."""
    if (a.pixels_high[i], a.pixels_low[i]) == (b.pixels_high[j], b.pixels_low[j]):
        return (BYTES if (a.bytes[i], a.size[i]) == (b.bytes[j], b.size[j]) else PIXELS), 0
    bits = int(np.bitwise_count(a.pattern[i] ^ b.pattern[j]))
    near = distance is not None and a.state[i] == b.state[j] == HASHED and bits <= distance
    return (NEAR, bits) if near else None


def rows(matches: Matches) -> list[tuple[int, int, int, int]]:
    columns = (matches.dropped, matches.other, matches.kind, matches.distance)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 6), st.sampled_from([None, 0, 1, 2, 4]))
@settings(max_examples=120, deadline=None)
def test_by_the_definition(seed: int, count: int, evaluated: int, distance: int | None) -> None:
    corpus, held_out = hashes(seed, count, distance is None), hashes(seed + 1, evaluated, distance is None)
    chosen = select(corpus, [held_out], distance)
    gone = {}
    for i in range(count):
        found = [(j, relation(corpus, i, held_out, j, distance)) for j in range(evaluated)]
        gone |= {i: [(j, how) for j, how in found if how]} if any(how for _, how in found) else {}
    assert [row[0] for row in rows(chosen.against[0])] == sorted(gone)
    for i, j, kind, bits in rows(chosen.against[0]):
        assert (j, (kind, bits)) in gone[i] and (kind, bits) == min(how for _, how in gone[i])
    order = sorted(
        set(range(count)) - gone.keys(), key=lambda i: (-int(corpus.area[i]), -int(corpus.size[i]), corpus.key[i])
    )
    kept: list[int] = []
    for i in order:
        if not any(relation(corpus, i, corpus, j, distance) for j in kept):
            kept.append(i)
    assert np.flatnonzero(chosen.keep).tolist() == sorted(kept)
    assert [row[0] for row in rows(chosen.within)] == sorted(set(order) - set(kept))
    for i, j, kind, bits in rows(chosen.within):
        assert j in kept and relation(corpus, i, corpus, j, distance) == (kind, bits)
        assert bits == min(how[1] for j in kept if (how := relation(corpus, i, corpus, j, distance)))


def test_a_million_blank_images_are_one() -> None:
    count = 1_000_000
    zeros = {name: np.zeros(count, np.uint64) for name in ("bytes", "pixels_high", "pixels_low", "pattern")}
    size, area, state = np.full(count, 9, np.uint32), np.full(count, 9, np.uint32), np.full(count, FLAT, np.uint8)
    keys = np.arange(count, 0, -1).astype(np.uint64)
    blank = Hashes(key=keys, size=size, area=area, state=state, **zeros)
    assert np.flatnonzero(select(blank, [], 4).keep).tolist() == [count - 1]
    state[:] = HASHED
    assert np.flatnonzero(select(blank, [], 4).keep).tolist() == [count - 1]
