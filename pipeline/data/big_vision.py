"""RandAugment(n, m) as the AugReg recipes had it: that of big_vision (pp/autoaugment.py), the TPU code of RandAugment's
authors.

m counts from 0 to 10 and on: what happens to a pixel is extrapolated, and ends where a level, a bit or the image does.
It is kept to the pixel, with what the authors may not have meant, but trained with:

- solarize's threshold grows with m and is kept in 8 bits: at 10 and 20 all is inverted, at 15 what is 128 or more;
- posterize keeps more bits the larger m is: 4 at 10, 6 at 15, 8, which is all, at 20; of none, shifts leave one bit;
- factors are 0.1 to 1.9 and on, with no sign: colours, contrast and the like are lowered only where m is below 5;
- contrast blends with a grey that is the number of pixels / 256, where Pillow's is the mean;
- so m = 0 is no identity. Shifts are pixels, whatever the image's size.

Levels are blended in float32, and fractions dropped. Geometry takes the nearest pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.config import RandAugment
from pipeline.data.keyed import keyed, uniform
from pipeline.data.operations import GREY, Pixels, equalize, histograms

_BIG_VISION = 21  # domain of the hash
_LEVELS = np.arange(256, dtype=np.float32)
_GREY_OF = np.tile(np.array([0.2989, 0.587, 0.114]) * 255.5 / 255, (3, 1))  # TensorFlow's way to 0..1 and back
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


class Chance(NamedTuple):
    """What an operation draws."""

    sign: float  # -1 or 1, by a coin
    y: float  # a place, as shares of the height and the width, in [0, 1)
    x: float


# -- levels ------------------------------------------------------------------------------------------------------


def _blended(other: np.ndarray | int, levels: np.ndarray, factor: float) -> np.ndarray:
    """uint8: `levels` (float32) with a factor of 1, `other` with 0, beyond them with others. Both are whole numbers."""
    blended = levels - np.float32(other)
    blended *= np.float32(factor)
    blended += other
    return np.clip(blended, 0, 255, out=blended).astype(np.uint8)


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return cv2.LUT(pixels, _blended(0, _LEVELS, factor))


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    grey = min(pixels.shape[0] * pixels.shape[1] // 256, 255)
    return cv2.LUT(pixels, _blended(grey, _LEVELS, factor))


def _color(pixels: Pixels, factor: float) -> Pixels:
    levels = pixels.astype(np.float32)
    grey = cv2.transform(levels, _GREY_OF)
    return _blended(np.trunc(grey, out=grey), levels, factor)


def _sharpness(pixels: Pixels, factor: float) -> Pixels:
    """The outermost pixels stay."""
    levels, sharpened = pixels.astype(np.float32), pixels.copy()
    smoothed = np.trunc(cv2.filter2D(levels, -1, _SMOOTH)[1:-1, 1:-1])
    sharpened[1:-1, 1:-1] = _blended(smoothed, levels[1:-1, 1:-1], factor)
    return sharpened


def _autocontrast(pixels: Pixels) -> Pixels:
    used = [np.flatnonzero(counts) for counts in histograms(pixels)]
    low, high = np.float32([[each[0], each[-1]] for each in used]).T
    scale = np.float32(255) / np.maximum(high - low, 1)
    stretched = np.clip(_LEVELS[:, None] * scale - low * scale, 0, 255)
    return cv2.LUT(pixels, np.where(high > low, stretched, _LEVELS[:, None]).astype(np.uint8)[None])


def _posterize(pixels: Pixels, bits: int) -> Pixels:
    shift = min((8 - bits) % 256, 7)  # TensorFlow's: of 8 bits itself, and cut to what there is
    return pixels >> np.uint8(shift) << np.uint8(shift)


def _solarize(pixels: Pixels, threshold: int) -> Pixels:
    levels = np.arange(256)
    return cv2.LUT(pixels, np.where(levels < threshold % 256, levels, 255 - levels).astype(np.uint8))


def _solarize_add(pixels: Pixels, addition: int) -> Pixels:
    levels = np.arange(256)
    return cv2.LUT(pixels, np.where(levels < 128, np.minimum(levels + addition, 255), levels).astype(np.uint8))


# -- places ------------------------------------------------------------------------------------------------------


def _nearest(pixels: Pixels, source: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Pixels:
    """Takes the pixel nearest to (x', y') = source (x, y, 1) to (x, y), in whole numbers from 0; outside is grey."""
    height, width = pixels.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    nearest = np.empty((height, width, 2), np.int16)
    for axis, (of_x, of_y, shift) in enumerate(np.float32(source)):
        place = of_x * x + of_y * y
        place += shift
        place += np.copysign(np.float32(0.5), place)  # a half goes away from 0
        nearest[..., axis] = place
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (GREY, GREY, GREY)}
    return cv2.remap(pixels, nearest, None, cv2.INTER_NEAREST, **border)


def _rotate(pixels: Pixels, degrees: float) -> Pixels:
    """About the centre."""
    angle, x, y = np.float32(np.radians(degrees)), pixels.shape[1] - 1, pixels.shape[0] - 1
    cos, sin = np.cos(angle), np.sin(angle)
    return _nearest(pixels, ((cos, -sin, (x - (cos * x - sin * y)) / 2), (sin, cos, (y - (sin * x + cos * y)) / 2)))


def _cutout(pixels: Pixels, reach: int, chance: Chance) -> Pixels:
    """A grey square of 2 * `reach`, as much of it as is inside; its centre is any pixel."""
    y, x = int(chance.y * pixels.shape[0]), int(chance.x * pixels.shape[1])
    cut = pixels.copy()
    cut[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = GREY
    return cut


OPERATIONS: dict[str, Callable[[Pixels, float, Chance], Pixels]] = {  # s: m / 10
    "autocontrast": lambda pixels, s, chance: _autocontrast(pixels),
    "equalize": lambda pixels, s, chance: equalize(pixels),
    "invert": lambda pixels, s, chance: 255 - pixels,
    "rotate": lambda pixels, s, chance: _rotate(pixels, 30 * s * chance.sign),
    "posterize": lambda pixels, s, chance: _posterize(pixels, int(s * 4)),
    "solarize": lambda pixels, s, chance: _solarize(pixels, int(s * 256)),
    "color": lambda pixels, s, chance: _color(pixels, 1.8 * s + 0.1),
    "contrast": lambda pixels, s, chance: _contrast(pixels, 1.8 * s + 0.1),
    "brightness": lambda pixels, s, chance: _brightness(pixels, 1.8 * s + 0.1),
    "sharpness": lambda pixels, s, chance: _sharpness(pixels, 1.8 * s + 0.1),
    "shear_x": lambda pixels, s, chance: _nearest(pixels, ((1, 0.3 * s * chance.sign, 0), (0, 1, 0))),
    "shear_y": lambda pixels, s, chance: _nearest(pixels, ((1, 0, 0), (0.3 * s * chance.sign, 1, 0))),
    "translate_x": lambda pixels, s, chance: _nearest(pixels, ((1, 0, 100 * s * chance.sign), (0, 1, 0))),
    "translate_y": lambda pixels, s, chance: _nearest(pixels, ((1, 0, 0), (0, 1, 100 * s * chance.sign))),
    "cutout": lambda pixels, s, chance: _cutout(pixels, int(s * 40), chance),
    "solarize_add": lambda pixels, s, chance: _solarize_add(pixels, int(s * 110)),
}
_IN_ORDER = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class DrawnBigVision:
    operations: np.ndarray  # int64 [samples, n]: places in OPERATIONS
    chances: np.ndarray  # float64 [samples, n, 3]: of each, its Chance
    strength: float  # m / 10

    @classmethod
    def draw(cls, augment: RandAugment, seed: int, epochs: np.ndarray, ids: np.ndarray) -> "DrawnBigVision":
        draws = uniform(keyed(seed, _BIG_VISION, epochs, ids), 4 * augment.n).reshape(len(ids), augment.n, 4)
        operations = np.floor(draws[..., 0] * len(OPERATIONS)).astype(np.int64)
        chances = draws[..., 1:]
        chances[..., 0] = np.where(chances[..., 0] < 0.5, -1.0, 1.0)
        return cls(operations, chances, augment.m / 10)

    def apply(self, pixels: Pixels, row: int) -> Pixels:
        for number, chance in zip(self.operations[row].tolist(), self.chances[row].tolist(), strict=True):
            pixels = _IN_ORDER[number](pixels, self.strength, Chance(*chance))
        return pixels
