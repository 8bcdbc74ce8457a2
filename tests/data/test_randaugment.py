"""Operations on pixels against Pillow's, which define them; RandAugment, colour jitter and erasing as keyed draws."""

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from pipeline.config import Augment
from pipeline.data import operations as op
from pipeline.data.augment import apply, draw
from pipeline.data.randaugment import OPERATIONS, DrawnOperations

pytestmark = pytest.mark.fast
GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
EVERYTHING = Augment(
    randaugment={"n": 2, "m": 9},
    color_jitter={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    random_erasing=0.5,
)


def made(seed: int, side: int = 48, kind: str = "smooth") -> np.ndarray:
    """Smooth as a photo, noise, or of one colour."""
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (side, side, 3)).copy()
    if kind == "smooth":
        coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
        low, high = np.sort(rng.integers(0, 256, 2))
        return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), low, high).astype(np.uint8)
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def pillow_hue(image: Image.Image, turn: float) -> Image.Image:
    """torchvision's adjust_hue for Pillow images."""
    h, s, v = image.convert("HSV").split()
    turned = (np.array(h).astype(np.int64) + round(turn * 256)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), s, v)).convert("RGB")


def far(ours: np.ndarray, pillow: Image.Image) -> int:
    return int(np.abs(ours.astype(int) - np.asarray(pillow).astype(int)).max())


# -- operations against Pillow -----------------------------------------------------------------------------------

IMAGES = st.builds(made, st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["smooth", "noise", "flat"]))


@settings(max_examples=120, deadline=None)
@given(pixels=IMAGES, factor=st.floats(0.0, 3.0), threshold=st.integers(0, 256), bits=st.integers(1, 8))
@example(pixels=made(0, 1), factor=0.0, threshold=0, bits=1)
@example(pixels=np.zeros((5, 5, 3), np.uint8), factor=1.9, threshold=256, bits=8)
def test_operations_on_levels_are_pillows(pixels: np.ndarray, factor: float, threshold: int, bits: int) -> None:
    image, before = Image.fromarray(pixels), pixels.copy()
    assert far(op.autocontrast(pixels), ImageOps.autocontrast(image)) == 0
    assert far(op.equalize(pixels), ImageOps.equalize(image)) == 0
    assert far(op.solarize(pixels, threshold), ImageOps.solarize(image, threshold)) == 0
    assert far(op.posterize(pixels, bits), ImageOps.posterize(image, bits)) == 0
    assert far(op.brightness(pixels, factor), ImageEnhance.Brightness(image).enhance(factor)) <= 1
    grey_off, off = 1 + abs(1 - factor), 2 + abs(1 - factor) / 2  # a mean that is rounded; greys that are, and a blend
    assert far(op.contrast(pixels, factor), ImageEnhance.Contrast(image).enhance(factor)) <= grey_off
    assert far(op.saturation(pixels, factor), ImageEnhance.Color(image).enhance(factor)) <= off
    assert far(op.sharpness(pixels, factor), ImageEnhance.Sharpness(image).enhance(factor)) <= off
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("turn", [-0.5, -0.21, -0.1, 0.0, 0.004, 0.1, 1 / 3, 0.5])
def test_hue_is_torchvisions(turn: float) -> None:
    for seed, kind, most, mean in ((0, "smooth", 6, 0.6), (1, "smooth", 6, 0.6), (2, "noise", 14, 1.5)):
        pixels = made(seed, kind=kind)
        pillow = np.asarray(pillow_hue(Image.fromarray(pixels), turn)).astype(int)
        difference = np.abs(op.hue(pixels, turn) - pillow)  # hue in 256 steps, which each rounds in its own way
        assert difference.max() <= most and difference.mean() < mean
    grey = np.repeat(made(3)[..., :1], 3, axis=2)
    assert np.array_equal(op.hue(grey, turn), grey)


def test_hue_turns_red_into_green_into_blue() -> None:
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    assert op.hue(red, 1 / 3).argmax(axis=2).tolist() == [[1, 1], [1, 1]]
    assert op.hue(red, -1 / 3).argmax(axis=2).tolist() == [[2, 2], [2, 2]]
    assert np.abs(op.hue(red, 0.5).astype(int) - (0, 255, 255)).max() <= 3


def pillow_geometry(image: Image.Image, name: str, s: float, outside: int) -> np.ndarray:
    """As AutoAugment defines it in Pillow's terms."""
    shift = round(150 / 331 * image.width * s)
    matrices = {
        "shear_x": (1, 0.3 * s, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * s, 1, 0),
        "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
    }
    fill, linear = (outside,) * 3, Image.Resampling.BILINEAR
    if name == "rotate":
        return np.asarray(image.rotate(30 * s, linear, fillcolor=fill))
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, matrices[name], linear, fillcolor=fill))


@pytest.mark.parametrize("s", [-1.0, -0.37, 0.05, 0.9])
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_pillows_but_for_the_seam_to_the_grey_outside(name: str, s: float) -> None:
    for side in (47, 96):
        pixels = made(side, side)
        ours, pillow = OPERATIONS[name](pixels, s), pillow_geometry(Image.fromarray(pixels), name, s, op.GREY)
        if name.startswith("translate"):
            assert np.array_equal(ours, pillow)  # whole pixels
        framed = np.zeros((side, side, 3), np.uint8)
        framed[1:-1, 1:-1] = 255
        inside = (pillow_geometry(Image.fromarray(framed), name, s, 0) == 255).all(axis=2)
        difference = np.abs(ours.astype(int) - pillow)[inside]
        assert difference.max() <= 2 and difference.mean() < 0.3
        shown = pillow_geometry(Image.new("RGB", (side, side), "white"), name, s, 0)
        outside = cv2.dilate(shown, np.ones((3, 3))).max(axis=2) == 0
        assert (ours[outside] == op.GREY).all()
        assert 1 - inside.mean() - outside.mean() < 0.2


# -- draws -------------------------------------------------------------------------------------------------------


def altered(augment: Augment, seed: int, epochs: np.ndarray, ids: np.ndarray) -> list[np.ndarray]:
    draws = draw(augment, seed, epochs, ids, 32)
    return [apply(made(int(i), 32), draws, row) for row, i in enumerate(ids)]


def test_pixels_do_not_depend_on_who_else_is_in_the_batch() -> None:
    rng = np.random.default_rng(0)
    ids, epochs = rng.permutation(10_000)[:60], rng.integers(0, 5, 60)
    whole = altered(EVERYTHING, 7, epochs, ids)
    for part in (slice(0, 1), slice(20, 45), np.arange(60)[::-1]):
        again = altered(EVERYTHING, 7, epochs[part], ids[part])
        assert all(np.array_equal(a, b) for a, b in zip(again, np.array(whole)[part], strict=True))
    assert altered(EVERYTHING, 7, epochs[:0], ids[:0]) == []


@pytest.mark.parametrize("what", ["seed", "epoch", "id"])
def test_draws_change_with_seed_epoch_and_sample(what: str) -> None:
    n = 300
    seed, epoch, first = (int(what == name) for name in ("seed", "epoch", "id"))
    before = draw(EVERYTHING, 0, np.zeros(n, np.int64), np.arange(n), 32).steps
    after = draw(EVERYTHING, seed, np.full(n, epoch), np.arange(n) + first * n, 32).steps
    assert (before[0].operations == after[0].operations).all(axis=1).sum() < 10
    assert (before[1].amounts == after[1].amounts).sum() == 0
    assert (before[2].noise == after[2].noise).sum() == 0


def test_the_draws_are_these_on_every_machine() -> None:
    """Of choices only: pixels may differ by a rounding between builds of OpenCV."""
    steps = draw(EVERYTHING, 3, np.arange(50) % 3, np.arange(50), 224).steps
    choices = (steps[0].operations, steps[0].strengths, steps[1].orders, steps[1].amounts, steps[2].boxes)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in (*choices, steps[2].noise)))
    assert digest.hexdigest()[:16] == "9ffee16df3a7803e"


def test_randaugment_draws_every_operation_equally_often_both_ways() -> None:
    n = 20_000
    (drawn,) = draw(Augment(randaugment={"n": 3, "m": 5}), 0, np.zeros(n, np.int64), np.arange(n), 32).steps
    assert isinstance(drawn, DrawnOperations) and drawn.operations.shape == (n, 3)
    assert len(OPERATIONS) == 14
    share = np.bincount(drawn.operations.ravel(), minlength=14) / (3 * n)
    assert np.abs(share - 1 / 14).max() < 0.005
    assert set(np.unique(drawn.strengths)) == {-0.5, 0.5} and abs(drawn.strengths.mean()) < 0.01
    assert abs(np.corrcoef(drawn.operations[:, 0], drawn.operations[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn.operations[:, 0], drawn.strengths[:, 0])[0, 1]) < 0.03


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gets_stronger_with_m_and_does_nothing_at_0(name: str) -> None:
    pixels = made(11, 64)
    changed = [OPERATIONS[name](pixels, s) for s in (0.0, 0.3, 0.6, 1.0)]
    change = [np.abs(each.astype(int) - pixels).mean() for each in changed]
    if name in ("autocontrast", "equalize"):
        assert change[0] > 0 and len(set(change)) == 1
    elif name == "identity":
        assert change == [0, 0, 0, 0]
    elif name in GEOMETRY:
        grey = [(each == op.GREY).all(axis=2).sum() for each in changed]
        assert change[0] == 0 and 0 < grey[1] < grey[2] < grey[3]
    else:
        assert change[0] == 0 and change[1] < change[2] < change[3]
    mirrored = np.array_equal(OPERATIONS[name](pixels, 0.6), OPERATIONS[name](pixels, -0.6))
    assert mirrored == (name in ("identity", "autocontrast", "equalize", "solarize", "posterize"))


def test_colour_jitter_fills_its_ranges_in_every_order() -> None:
    n = 20_000
    jitter = {"brightness": 0.4, "contrast": 2.0, "hue": 0.1}
    (drawn,) = draw(Augment(color_jitter=jitter), 0, np.zeros(n, np.int64), np.arange(n), 32).steps
    ranges = [(0.6, 1.4), (0.0, 3.0), (1.0, 1.0), (-0.1, 0.1)]
    for amounts, (low, high) in zip(drawn.amounts.T, ranges, strict=True):
        assert low <= amounts.min() <= amounts.max() <= high
        assert abs(amounts.mean() - (low + high) / 2) <= (high - low) / 100
        assert amounts.max() - amounts.min() >= (high - low) * 0.99
    _, counts = np.unique(drawn.orders, axis=0, return_counts=True)
    assert len(counts) == 24 and np.abs(counts / n - 1 / 24).max() < 0.006


def test_erasing_puts_noise_into_a_box_and_leaves_the_rest() -> None:
    n, side = 4_000, 64
    ids, epochs = np.arange(n), np.zeros(n, np.int64)
    augment = Augment(random_erasing={"probability": 0.25})
    draws = draw(augment, 0, epochs, ids, side)
    left, top, width, height = draws.steps[0].boxes.T
    erased = width > 0
    assert abs(erased.mean() - 0.25) < 0.02
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= side).all() and (top + height <= side).all()
    share = (width * height)[erased] / side**2
    assert 0.015 < share.min() < 0.03 and 0.31 < share.max() < 0.35
    noise = []
    for row in np.flatnonzero(erased)[:40]:
        pixels = apply(np.zeros((side, side, 3), np.uint8), draws, row)
        x, y, w, h = draws.steps[0].boxes[row]
        noise.append(pixels[y : y + h, x : x + w].copy())
        pixels[y : y + h, x : x + w] = 0
        assert not pixels.any()
    levels = np.concatenate([box.ravel() for box in noise])
    assert np.abs(np.bincount(levels, minlength=256) / len(levels) * 256 - 1).max() < 0.35
    assert abs(levels.mean() - 127.5) < 2
    kept = np.flatnonzero(~erased)[0]
    assert not apply(np.zeros((side, side, 3), np.uint8), draws, int(kept)).any()


def test_nothing_configured_returns_the_pixels_as_they_are() -> None:
    draws = draw(Augment(), 0, np.zeros(2, np.int64), np.arange(2), 32)
    pixels = made(0)[:, ::-1]
    assert draws.steps == () and apply(pixels, draws, 1) is pixels


def test_a_flipped_view_is_taken() -> None:
    ids, epochs = np.arange(30), np.zeros(30, np.int64)
    draws = draw(EVERYTHING, 0, epochs, ids, 32)
    for row in range(30):
        view = made(row, 32)[:, ::-1]
        copy = np.ascontiguousarray(view)
        out = apply(view, draws, row)
        assert np.array_equal(out, apply(copy, draws, row)) and out.shape == (32, 32, 3) and out.dtype == np.uint8
