"""Crop boxes and flips: inside the image whatever its size, keyed by the sample alone."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import Augment
from pipeline.data.augment import centre_boxes, training_boxes

pytestmark = pytest.mark.fast
SIDES = st.one_of(st.integers(1, 40), st.integers(1, 20_000))
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=40)


def boxes_of(sizes: list[tuple[int, int]], augment: Augment, seed: int = 0, epoch: int = 0) -> np.ndarray:
    n = len(sizes)
    return training_boxes(augment, seed, np.full(n, epoch), np.arange(n), np.array(sizes, np.int64))[0]


def assert_inside(boxes: np.ndarray, sizes: np.ndarray) -> None:
    left, top, width, height = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (width >= 1).all() and (height >= 1).all()
    assert (left + width <= sizes[:, 0]).all() and (top + height <= sizes[:, 1]).all()


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**63 - 1), low=st.floats(0.001, 1.0))
@example(sizes=[(1, 1), (1, 1_000), (1_000, 1), (2, 3), (1, 20_000), (9_999, 2)], seed=0, low=0.05)
def test_boxes_lie_inside_the_image(sizes: list[tuple[int, int]], seed: int, low: float) -> None:
    boxes = boxes_of(sizes, Augment(area=(low, 1.0)), seed)
    assert boxes.dtype == np.int64
    assert_inside(boxes, np.array(sizes))


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, crop=st.floats(0.01, 1.0))
@example(sizes=[(1, 1), (1, 1_000), (1_000, 1)], crop=0.875)
def test_centre_boxes_are_centred_squares_inside(sizes: list[tuple[int, int]], crop: float) -> None:
    whole = np.array(sizes)
    boxes = centre_boxes(whole, crop)
    assert_inside(boxes, whole)
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert (np.abs(boxes[:, 2] - np.maximum(1, whole.min(axis=1) * crop)) <= 0.5).all()
    assert (np.abs(2 * boxes[:, 0] + boxes[:, 2] - whole[:, 0]) <= 1).all()
    assert (np.abs(2 * boxes[:, 1] + boxes[:, 3] - whole[:, 1]) <= 1).all()


def test_area_and_aspect_stay_within_their_limits_and_fill_them() -> None:
    sizes = [(640, 480)] * 5_000
    augment = Augment(area=(0.2, 0.6), aspect=(0.5, 2.0))
    _, _, w, h = boxes_of(sizes, augment).T.astype(float)
    whole = 640 * 480
    assert ((w + 0.5) * (h + 0.5) >= 0.2 * whole).all() and ((w - 0.5) * (h - 0.5) <= 0.6 * whole).all()
    assert ((w + 0.5) / (h - 0.5) >= 0.5).all() and ((w - 0.5) / (h + 0.5) <= 2.0).all()
    assert (w * h).min() < 0.21 * whole and (w * h).max() > 0.58 * whole
    assert (w / h).min() < 0.55 and (w / h).max() > 1.8
    assert abs(np.log(w / h).mean()) < 0.1  # log-uniform: tall as often as wide
    assert abs((w * h).mean() / whole - 0.4) < 0.03


def test_an_image_that_no_try_fits_gets_its_largest_centred_crop() -> None:
    boxes = boxes_of([(10_000, 10), (10, 10_000)] * 20, Augment())
    assert (boxes[::2] == [4_993, 0, 13, 10]).all()
    assert (boxes[1::2] == [0, 4_993, 10, 13]).all()


def test_boxes_and_flips_do_not_depend_on_who_else_is_in_the_batch() -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(10_000)[:300]
    sizes = rng.integers(20, 500, (300, 2))
    epochs = rng.integers(0, 5, 300)
    boxes, flips = training_boxes(Augment(), 7, epochs, ids, sizes)
    for part in (slice(0, 1), slice(100, 250), slice(299, None), np.arange(300)[::-1]):
        some = training_boxes(Augment(), 7, epochs[part], ids[part], sizes[part])
        assert np.array_equal(some[0], boxes[part]) and np.array_equal(some[1], flips[part])
    empty = training_boxes(Augment(), 7, epochs[:0], ids[:0], sizes[:0])
    assert empty[0].shape == (0, 4) and empty[1].shape == (0,)


@pytest.mark.parametrize("what", ["seed", "epoch", "id"])
def test_boxes_and_flips_change_with_seed_epoch_and_sample(what: str) -> None:
    n, sizes = 400, np.full((400, 2), 1_000)
    before = training_boxes(Augment(), 0, np.zeros(n, np.int64), np.arange(n), sizes)
    seed, epoch, first = (int(what == name) for name in ("seed", "epoch", "id"))
    after = training_boxes(Augment(), seed, np.full(n, epoch), np.arange(n) + first * n, sizes)
    assert (before[0] == after[0]).all(axis=1).sum() < 4
    assert 140 < (before[1] == after[1]).sum() < 260


def test_half_of_the_samples_are_flipped_and_none_without_flip() -> None:
    n = 20_000
    sizes = np.full((n, 2), 100)
    boxes, flips = training_boxes(Augment(), 0, np.zeros(n, np.int64), np.arange(n), sizes)
    assert abs(flips.mean() - 0.5) < 0.015
    assert abs(np.corrcoef(flips, boxes[:, 0])[0, 1]) < 0.03  # flips know nothing of the boxes
    assert not training_boxes(Augment(flip=False), 0, np.zeros(n, np.int64), np.arange(n), sizes)[1].any()


def test_boxes_lie_anywhere_in_the_image() -> None:
    left, top, w, h = boxes_of([(1_000, 1_000)] * 20_000, Augment(area=(0.05, 0.1))).T
    for offset, room in ((left, 1_000 - w), (top, 1_000 - h)):
        share = np.histogram(offset / (room + 1), bins=10, range=(0, 1))[0] / 20_000
        assert np.abs(share - 0.1).max() < 0.012


def test_crop_none_takes_the_whole_image() -> None:
    assert np.array_equal(boxes_of([(3, 4), (1, 1)], Augment(crop="none")), [[0, 0, 3, 4], [0, 0, 1, 1]])
