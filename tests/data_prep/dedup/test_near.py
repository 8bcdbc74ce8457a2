"""The banded lookup finds what comparing each with each finds: every pair, and each once."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import near
from data_prep.dedup.greedy import keep_best
from data_prep.dedup.near import MAX_DISTANCE, blocks_for, nearest, pairs_between, pairs_within

pytestmark = pytest.mark.fast


@st.composite
def clustered(draw: st.DrawFn) -> np.ndarray:
    """uint64 [n], all different: a few hashes, and many that differ from one of them in a few bits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = rng.integers(0, 2**64, draw(st.integers(1, 5)), np.uint64)
    hashes = centres[rng.integers(0, len(centres), draw(st.integers(1, 150)))]
    for _ in range(draw(st.integers(0, 8))):
        bits = np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64)
        hashes = np.where(rng.random(len(hashes)) < 0.5, hashes ^ bits, hashes)
    return rng.permutation(np.unique(hashes))


def bits_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a[:, None] ^ b[None])


def listed(pairs) -> list[tuple[int, int, int]]:
    return [pair for chunk in pairs for pair in zip(*(column.tolist() for column in chunk), strict=True)]


@given(clustered(), st.integers(0, MAX_DISTANCE), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_all_pairs_within(hashes: np.ndarray, distance: int, chunk: int) -> None:
    bits = bits_between(hashes, hashes)
    expected = {(i, j, int(bits[i, j])) for i, j in np.argwhere(bits <= distance).tolist() if i < j}
    with Small(CHUNK=97 * chunk, WINDOW=50):
        found = listed(pairs_within(hashes, distance))
    assert len(found) == len(expected) and set(found) == expected


@given(clustered(), clustered(), st.integers(0, MAX_DISTANCE))
@settings(max_examples=60, deadline=None)
def test_all_pairs_between_and_the_nearest(queries: np.ndarray, hashes: np.ndarray, distance: int) -> None:
    queries = np.random.default_rng(0).permutation(np.unique(np.concatenate([queries, hashes[::3]])))
    bits = bits_between(queries, hashes)
    with Small(CHUNK=89, WINDOW=50):
        found = listed(pairs_between(queries, hashes, distance))
        place, far = nearest(queries, hashes, distance)
    assert len(found) == len(set(found))
    assert set(found) == {(i, j, int(bits[i, j])) for i, j in np.argwhere(bits <= distance).tolist()}
    assert np.array_equal(place, np.where(bits.min(1) <= distance, bits.argmin(1), -1))
    assert np.array_equal(far, np.where(place >= 0, bits.min(1), 0))


@given(clustered(), st.integers(1, MAX_DISTANCE), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_that_of_a_pass_in_order(hashes: np.ndarray, distance: int, held: int) -> None:
    """However many pairs are held in memory."""
    bits = bits_between(hashes, hashes)
    kept: list[int] = []
    for number in range(len(hashes)):
        if not (bits[number, kept] <= distance).any():
            kept.append(number)
    stays, place, far = keep_best(hashes, distance, held)
    assert np.flatnonzero(stays).tolist() == kept
    to_kept = bits[:, kept]
    assert place.tolist() == [kept[at] for at in to_kept.argmin(1)] and far.tolist() == to_kept.min(1).tolist()


def test_a_chain_is_not_glued_together() -> None:
    """Each is near the next, the ends are far: the best stays, and what is near it goes, and so on."""
    chain = np.array([(1 << 3 * number) - 1 for number in range(10)], np.uint64)
    stays, place, _ = keep_best(chain, 4)
    assert stays.tolist() == [True, False] * 5 and place.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]


def test_nothing_to_look_for() -> None:
    none, one = np.empty(0, np.uint64), np.array([5], np.uint64)
    assert listed(pairs_within(none, 4)) == listed(pairs_within(one, 4)) == []
    assert nearest(none, one, 4)[0].tolist() == [] and nearest(one, none, 4)[0].tolist() == [-1]
    assert keep_best(none, 4)[0].tolist() == [] and keep_best(one, 4)[0].tolist() == [True]


def test_more_blocks_for_more_hashes() -> None:
    assert blocks_for(1000, 1000, 4) < blocks_for(300_000_000, 300_000_000, 4)


def test_a_hundred_thousand_are_fast() -> None:
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**64, 100_000, np.uint64))
    copies = hashes[:1000] ^ (np.uint64(1) << rng.integers(0, 64, 1000, np.uint64))
    start = time.process_time()
    stays, place, far = keep_best(np.concatenate([hashes, copies]), 4)
    assert time.process_time() - start < 20  # 0.3 s of one core
    assert stays[: len(hashes)].all() and not stays[len(hashes) :].any()
    assert place[len(hashes) :].tolist() == list(range(1000)) and set(far[len(hashes) :].tolist()) == {1}


def test_a_large_cluster_needs_no_memory() -> None:
    """3,000 hashes with 1 % of all pairs near: far more pairs than are held."""
    rng = np.random.default_rng(1)
    hashes = np.unique(np.uint64(1) << rng.integers(0, 64, (4, 6_000), np.uint64), axis=1)
    hashes = np.unique(np.bitwise_or.reduce(hashes, axis=0))[:3000]
    few, many = keep_best(hashes, 4, held=100), keep_best(hashes, 4)
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=True))


class Small:
    """Makes chunks and windows small while it lasts, so that the tests cross their borders."""

    def __init__(self, **sizes: int) -> None:
        self._sizes = sizes
        self._before = {name: getattr(near, name) for name in sizes}

    def __enter__(self) -> None:
        for name, value in self._sizes.items():
            setattr(near, name, value)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            setattr(near, name, value)
