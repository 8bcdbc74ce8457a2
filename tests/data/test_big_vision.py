"""RandAugment of big_vision: the authors' own pixels, their definitions in plain numbers, and keyed draws."""

import hashlib
import math
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from pipeline.config import Augment
from pipeline.data.augment import apply, draw
from pipeline.data.big_vision import OPERATIONS, Chance
from pipeline.data.operations import GREY
from tests.data.test_randaugment import IMAGES, far, made

pytestmark = pytest.mark.fast
AUGREG = Augment(randaugment={"operations": "big_vision", "n": 2, "m": 15})
CENTRE = Chance(1.0, 43.5 / 130, 40.5 / 160)

# CRC-32 of what big_vision's code makes of `patterned()` with TensorFlow 2.15 at m = 0, 10, 15, 20.
AUTHORS = """
    autocontrast   7627b3de 7627b3de 7627b3de 7627b3de
    equalize       8dd78582 8dd78582 8dd78582 8dd78582
    invert         5a6a9b75 5a6a9b75 5a6a9b75 5a6a9b75
    rotate         bcfbce82 6732bb99 e497b1c9 b86066da
    posterize      350bcfaa 2e441c8c 1c6e84d1 bcfbce82
    solarize       5a6a9b75 5a6a9b75 2d199710 5a6a9b75
    contrast       2a364416 859bcbf9 55139ecd c5107ea3
    brightness     a665d530 da9ed637 f45cf84b 625b64c0
    shear_x        bcfbce82 b9afb40a 7b19b0ed 7a1eaf4f
    shear_y        bcfbce82 1b09c1a7 76fc6fda 26365c79
    translate_x    bcfbce82 579de01d 7e6e93b8 2eb2495e
    translate_y    bcfbce82 ed3ed98d 2eb2495e 2eb2495e
    cutout         bcfbce82 00876563 7d168e1c ee8a336b
    solarize_add   bcfbce82 39a27a7d c2fb5581 5ee688f1
"""
# Means instead where a fraction next to a whole number is dropped or not, as the machine adds floats up.
AUTHORS_MEANS = """
    color          126.563  127.9043 128.2306 128.171
    sharpness      127.1024 127.5895 127.9528 128.2722
"""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def patterned() -> np.ndarray:
    """uint8 [130, 160, 3], in whole numbers."""
    y, x, c = np.mgrid[:130, :160, :3]
    pattern = x * (c + 1) + y * (5 - c) + x * y // (40 + c) + (x // 16) * (y // 16) * 7 * c
    return (pattern % (256 - 20 * c) + 10 * c).astype(np.uint8)


@pytest.mark.parametrize("row", rows(AUTHORS), ids=lambda row: row[0])
def test_the_authors_pixels(row: list[str]) -> None:
    name, *sums = row
    assert [f"{zlib.crc32(OPERATIONS[name](patterned(), m / 10, CENTRE)):08x}" for m in (0, 10, 15, 20)] == sums


@pytest.mark.parametrize("row", rows(AUTHORS_MEANS), ids=lambda row: row[0])
def test_the_authors_means(row: list[str]) -> None:
    name, *means = row
    ours = [OPERATIONS[name](patterned(), m / 10, CENTRE).mean() for m in (0, 10, 15, 20)]
    assert ours == pytest.approx([float(mean) for mean in means], abs=0.01)


def test_there_are_16_operations() -> None:
    assert {row[0] for row in rows(AUTHORS) + rows(AUTHORS_MEANS)} == set(OPERATIONS) and len(OPERATIONS) == 16


# -- their definitions, plainly ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(pixels=IMAGES, m=st.floats(0.0, 30.0))
@example(pixels=made(0, 1), m=15.0)
@example(pixels=made(3, 20, "noise"), m=30.0)
def test_levels(pixels: np.ndarray, m: float) -> None:
    image, before, s, chance = Image.fromarray(pixels), pixels.copy(), m / 10, Chance(1.0, 0.0, 0.0)
    factor, levels = 1.8 * s + 0.1, pixels.astype(int)
    ours = {name: OPERATIONS[name](pixels, s, chance) for name in OPERATIONS}
    assert far(ours["autocontrast"], ImageOps.autocontrast(image)) <= 1
    assert far(ours["equalize"], ImageOps.equalize(image)) == 0
    assert far(ours["invert"], ImageOps.invert(image)) == 0
    assert far(ours["solarize"], ImageOps.solarize(image, int(s * 256) % 256)) == 0
    added = np.where(levels < 128, np.minimum(levels + int(s * 110), 255), levels)
    assert np.array_equal(ours["solarize_add"], added)
    bits = int(s * 4)
    assert np.array_equal(ours["posterize"], levels & ~(2 ** (8 - bits if 1 <= bits <= 8 else 7) - 1))
    assert far(ours["brightness"], ImageEnhance.Brightness(image).enhance(factor)) <= 1
    grey = min(255, pixels.shape[0] * pixels.shape[1] // 256)
    assert np.abs(ours["contrast"] - np.clip(grey + factor * (levels - grey), 0, 255)).max() <= 1
    off = 2 + 2 * abs(1 - factor)  # Pillow's greys are rounded, theirs are not
    assert far(ours["color"], ImageEnhance.Color(image).enhance(factor)) <= off
    assert far(ours["sharpness"], ImageEnhance.Sharpness(image).enhance(factor)) <= off
    assert all(each.dtype == np.uint8 and each.shape == pixels.shape for each in ours.values())
    assert np.array_equal(pixels, before)


def source(name: str, x: float, y: float, s: float, sign: float, side: tuple[int, int]) -> tuple[float, float]:
    """Where what is seen at (x, y) was."""
    if name == "rotate":
        angle, cx, cy = math.radians(30 * s * sign), (side[0] - 1) / 2, (side[1] - 1) / 2
        turned = complex(x - cx, y - cy) * complex(math.cos(angle), math.sin(angle))
        return turned.real + cx, turned.imag + cy
    by = 0.3 * s * sign if name.startswith("shear") else 100 * s * sign
    along_x = {"shear_x": by * y, "translate_x": by}.get(name, 0.0)
    along_y = {"shear_y": by * x, "translate_y": by}.get(name, 0.0)
    return x + along_x, y + along_y


@pytest.mark.parametrize("m", [0.7, 15, 20])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_places(name: str, m: float) -> None:
    pixels = made(5, 40)[:33]
    height, width = pixels.shape[:2]
    for sign in (-1.0, 1.0):
        moved = OPERATIONS[name](pixels, m / 10, Chance(sign, 0.0, 0.0))
        for y in range(height):
            for x in range(width):
                there = source(name, x, y, m / 10, sign, (width, height))
                if any(abs(each % 1 - 0.5) < 1e-4 for each in there):
                    continue  # either of two pixels
                u, v = (math.floor(each + 0.5) for each in there)
                inside = 0 <= u < width and 0 <= v < height
                assert moved[y, x].tolist() == (pixels[v, u].tolist() if inside else [GREY] * 3)


def test_cutout_is_a_square_around_any_pixel() -> None:
    pixels = np.zeros((224, 224, 3), np.uint8)
    for m, y, x, box in ((15, 0.5, 0.5, (52, 172, 52, 172)), (20, 0.0, 0.999, (0, 80, 143, 224)), (0, 0.5, 0.5, None)):
        cut = OPERATIONS["cutout"](pixels, m / 10, Chance(1.0, y, x))
        expected = pixels.copy()
        if box:
            expected[box[0] : box[1], box[2] : box[3]] = GREY
        assert np.array_equal(cut, expected)


# -- draws -------------------------------------------------------------------------------------------------------


def test_draws_are_keyed_and_even() -> None:
    n = 20_000
    ids, epochs = np.arange(n), np.zeros(n, np.int64)
    (drawn,) = draw(AUGREG, 0, epochs, ids, 224).steps
    assert drawn.strength == 1.5 and drawn.operations.shape == (n, 2)
    assert np.abs(np.bincount(drawn.operations.ravel(), minlength=16) / (2 * n) - 1 / 16).max() < 0.005
    signs, places = drawn.chances[..., 0], drawn.chances[..., 1:]
    assert set(np.unique(signs)) == {-1.0, 1.0} and abs(signs.mean()) < 0.015
    assert places.min() >= 0 and places.max() < 1 and np.abs(places.mean(axis=(0, 1)) - 0.5).max() < 0.01
    together = np.concatenate([drawn.operations, drawn.chances.reshape(n, 6)], axis=1)
    assert np.abs(np.corrcoef(together.T) - np.eye(8)).max() < 0.03
    for seed, epoch, first in ((1, 0, 0), (0, 1, 0), (0, 0, n)):
        (other,) = draw(AUGREG, seed, epochs[:300] + epoch, ids[:300] + first, 224).steps
        assert (other.operations == drawn.operations[:300]).all(axis=1).sum() < 10
    digest = hashlib.sha256(drawn.operations[:50].tobytes() + np.ascontiguousarray(drawn.chances[:50]).tobytes())
    assert digest.hexdigest()[:16] == "4a4d0965b56f4820"


def test_pixels_do_not_depend_on_who_else_is_in_the_batch() -> None:
    ids, epochs = np.random.default_rng(0).permutation(10_000)[:60], np.arange(60) % 5
    whole, part = draw(AUGREG, 7, epochs, ids, 32), draw(AUGREG, 7, epochs[20:45], ids[20:45], 32)
    for row in range(25):
        view = made(row, 32)[:, ::-1]  # a flipped view is taken, too
        pixels = apply(np.ascontiguousarray(view), whole, 20 + row)
        assert np.array_equal(pixels, apply(view, part, row)) and pixels.dtype == np.uint8
