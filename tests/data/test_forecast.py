"""What is foreseen of an order: how well it mixes, and what reading in it costs."""

import numpy as np
import pytest

from pipeline.data.forecast import chi_square, shuffle_quality
from pipeline.data.mixture import Mixture
from pipeline.data.order import Order

pytestmark = pytest.mark.fast
GOOD = 1.1


def test_chi_square_is_that_of_the_textbook() -> None:
    labels = np.array([[0, 0, 1, 2], [0, 1, 2, 2], [2, 2, 2, 2]])
    expected = 4 / 3
    counts = np.array([[2, 1, 1], [1, 1, 2], [0, 0, 4]])
    by_hand = ((counts - expected) ** 2 / expected).sum(axis=1) / 2  # two degrees of freedom
    assert chi_square(labels, 3) == pytest.approx(by_hand.mean())
    assert chi_square(np.zeros((3, 100), np.int64), 10) == pytest.approx(100)  # one class each: the batch's size
    drawn = np.random.default_rng(0).integers(0, 1000, (500, 256))
    assert chi_square(drawn, 1000) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("batch", [32, 256, 1000, 4096, 6000, 8192, 16_384, 65_536])
@pytest.mark.parametrize(
    ("samples", "classes"),
    [(50_000, 10), (50_000, 1000), (200_000, 200), (1_281_167, 1000), (12_800_000, 1000), (300_000_000, 18_000)],
)
def test_the_defaults_mix_sorted_data_well(samples: int, classes: int, batch: int) -> None:
    found = shuffle_quality(Order.fit(samples, batch, seed=3), classes, batch)
    assert found is None if batch > samples else found is not None and 0 < found <= GOOD


@pytest.mark.parametrize("batch", [256, 4096, 16_384])
def test_so_does_a_mixture(batch: int) -> None:
    mixture = Mixture.fit([1_281_167, 60_000, 14_000_000], [5, 1, 4], batch, seed=1)
    found = shuffle_quality(mixture, 500, batch)
    assert found is not None and found <= GOOD


def test_a_bad_order_is_seen_to_be_one() -> None:
    """The measure tells: few lanes with short windows give batches of few classes."""
    narrow = shuffle_quality(Order(1_281_167, 0, lanes=8, chunk=64, window=1), 1000, 1024)
    assert narrow is not None and narrow > 20
    few = shuffle_quality(Order(400_000, 0, lanes=4096, chunk=32, window=3), 1000, 32_768)  # a batch: 8 of 96
    assert few is not None and few > 2


def test_nothing_is_said_of_one_class_or_of_less_than_a_batch() -> None:
    assert shuffle_quality(Order.fit(10_000, 64, 0), 1, 64) is None
    assert shuffle_quality(Order.fit(63, 64, 0), 10, 64) is None
