"""The keyed permutation: a bijection of [0, n) for every n and key, undone by its inverse."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.data.keyed import keyed, uniform
from pipeline.data.permutation import permute, unpermute

pytestmark = pytest.mark.fast
KEYS = st.integers(0, 2**64 - 1)


@settings(max_examples=120, deadline=None)
@given(n=st.integers(1, 5_000), key=KEYS)
@example(n=1, key=0)
@example(n=2, key=0)
@example(n=3, key=2**64 - 1)
@example(n=4_999, key=7)  # prime
@example(n=4_900, key=7)  # a square: no cycle walking
@example(n=4_901, key=7)  # one more than a square: the most of it
def test_every_value_once_and_back(n: int, key: int) -> None:
    x = np.arange(n)
    y = permute(x, np.int64(n), np.uint64(key))
    assert np.array_equal(np.sort(y), x)
    assert np.array_equal(unpermute(y, np.int64(n), np.uint64(key)), x)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2**20, 2**45), key=KEYS, data=st.data())
def test_large_domains_stay_inside_and_invert(n: int, key: int, data: st.DataObject) -> None:
    x = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50, unique=True)))
    y = permute(x, np.int64(n), np.uint64(key))
    assert (y >= 0).all() and (y < n).all()
    assert len(np.unique(y)) == len(x)
    assert np.array_equal(unpermute(y, np.int64(n), np.uint64(key)), x)


def test_every_element_may_have_its_own_domain_and_key() -> None:
    sizes, keys = np.array([1, 5, 97, 97, 10_000]), keyed(3, np.arange(5))
    x = np.array([0, 4, 13, 13, 9_999])
    together = permute(x, sizes, keys)
    apart = [int(permute(x[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0]) for i in range(5)]
    assert together.tolist() == apart
    assert np.array_equal(unpermute(together, sizes, keys), x)


def test_the_inputs_are_left_as_they_were() -> None:
    x = np.arange(50)
    permute(x, np.int64(50), np.uint64(1))
    assert np.array_equal(x, np.arange(50))


def test_keys_give_unrelated_permutations() -> None:
    n, x = 1_000, np.arange(1_000)
    images = [permute(x, np.int64(n), np.uint64(key)) for key in range(50)]
    for one, other in pairwise(images):
        assert (one == other).sum() < 15  # 1 expected, Poisson
    assert sum(int((image == x).sum()) for image in images) < 100  # fixed points: 50 expected


def test_images_are_uniform() -> None:
    """Where element 0 of 16 goes, over 16,000 keys: a chi-square of 15 degrees of freedom."""
    keys = keyed(1, np.arange(16_000))
    counts = np.bincount(permute(np.zeros(16_000, np.int64), np.int64(16), keys), minlength=16)
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 45


def test_neighbours_are_torn_apart() -> None:
    n = 100_000
    y = permute(np.arange(n), np.int64(n), np.uint64(5))
    assert np.median(np.abs(np.diff(y))) == pytest.approx(n * (1 - 0.5**0.5), rel=0.03)  # of two uniform numbers
    assert (np.abs(np.diff(y)) == 1).sum() < 12


def test_hashes_depend_on_every_part_and_on_their_order() -> None:
    hashes = [int(keyed(*parts)[0]) for parts in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**64 - 1,), (0, 0, 0))]
    assert len(set(hashes)) == len(hashes)
    assert int(keyed(3, np.array([4, 5]))[1]) == int(keyed(3, 5)[0])


def test_uniform_draws_are_independent_of_who_is_drawn_with_them() -> None:
    keys = keyed(9, np.arange(2_000))
    draws = uniform(keys, 5)
    assert draws.min() >= 0 and draws.max() < 1
    assert np.array_equal(uniform(keys[17:18], 5)[0], draws[17])
    assert abs(draws.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.1
