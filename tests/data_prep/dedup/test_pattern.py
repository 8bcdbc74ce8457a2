"""The perceptual hash: the same picture, in whatever way it was saved, is near; any other is far."""

import numpy as np
import pytest

from data_prep.dedup.pattern import BITS, SIDE, pattern_hash
from tests.data_prep.dedup.made import NEAR, OTHER, scene

pytestmark = pytest.mark.fast

DISTANCE = 4  # what `vitstream dedup` takes unless told otherwise
SCENES = range(25)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    first, second = pattern_hash(a), pattern_hash(np.ascontiguousarray(b))
    assert first is not None and second is not None
    return (first ^ second).bit_count()


@pytest.mark.parametrize("change", NEAR)
def test_changes_that_are_found(change: str) -> None:
    """96 of 100 and more: of cropping by 1 % a few go beyond, as docs/curate.md says."""
    found = [distance(scene(seed), NEAR[change](scene(seed))) <= DISTANCE for seed in SCENES]
    assert sum(found) >= (len(found) - 1 if change.startswith("cropped") else len(found))


@pytest.mark.parametrize("change", OTHER)
def test_pictures_that_are_others(change: str) -> None:
    assert min(distance(scene(seed), OTHER[change](scene(seed))) for seed in SCENES) > 2 * DISTANCE


def test_different_photos_are_far() -> None:
    hashes = np.array([pattern_hash(scene(seed, 160, 120)) for seed in range(200)], np.uint64)
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None])[np.triu_indices(200, 1)]
    assert bits.min() > 2 * DISTANCE and 31 < bits.mean() < 33


def test_half_of_the_bits_are_set() -> None:
    """So distances are even, as the docs say."""
    assert {pattern_hash(scene(seed)).bit_count() for seed in SCENES} == {BITS // 2}  # type: ignore[union-attr]


def test_by_the_definition() -> None:
    """On a picture of 32 x 32 greys there is nothing to shrink: the DCT written out as a matrix."""
    grey = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE), np.uint8)
    n = np.arange(SIDE)
    matrix = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / (2 * SIDE)) * np.sqrt(2 / SIDE)
    matrix[0] /= np.sqrt(2)
    block = (matrix @ grey @ matrix.T)[1:9, 1:9].ravel()
    bits = "".join("1" if value > np.median(block) else "0" for value in block)
    assert pattern_hash(np.repeat(grey[..., None], 3, axis=2)) == int(bits, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 33), (64, 64), (65, 63), (2000, 30)])
def test_any_size(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert pattern_hash(pixels) == pattern_hash(pixels.copy())


def test_flat_pictures_have_none() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (200, 300, 3))
    noise = np.random.default_rng(1).integers(126, 131, (200, 300, 3), np.uint8)
    for flat in (
        np.zeros((9, 9, 3), np.uint8),
        np.full((400, 300, 3), 255, np.uint8),
        noise,
        np.ascontiguousarray(ramp),
    ):
        assert pattern_hash(flat) is None
