"""RandAugment(n, m): n of the paper's 14 operations on every image, all at magnitude m (Cubuk et al. 2019,
arXiv 1909.13719).

m counts from 0 to 10, as in the paper's text, timm and the ViT recipes; torchvision counts the same range to 30.
Each operation is drawn uniformly, with replacement, and always applied. The ranges are torchvision's: every one gets
stronger with m, and m = 0 leaves the image alone, but for `autocontrast` and `equalize`, which know no magnitude.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.config import RandAugment
from pipeline.data import operations as op
from pipeline.data.keyed import keyed, uniform
from pipeline.data.operations import Pixels

_RANDAUGMENT = 16  # domain of the hash
_MAX_M = 10.0


def _shift(pixels: Pixels, side: int, s: float) -> float:
    """150 of 331 pixels at most, the paper's, in whole pixels."""
    return float(round(pixels.shape[side] * 150 / 331 * s))


OPERATIONS: dict[str, Callable[[Pixels, float], Pixels]] = {  # s: m / 10, with a sign by a coin
    "identity": lambda pixels, s: pixels,
    "autocontrast": lambda pixels, s: op.autocontrast(pixels),
    "equalize": lambda pixels, s: op.equalize(pixels),
    "rotate": lambda pixels, s: op.rotate(pixels, 30 * s),
    "solarize": lambda pixels, s: op.solarize(pixels, 256 - round(256 * abs(s))),
    "color": lambda pixels, s: op.saturation(pixels, 1 + 0.9 * s),
    "posterize": lambda pixels, s: op.posterize(pixels, 8 - round(4 * abs(s))),
    "contrast": lambda pixels, s: op.contrast(pixels, 1 + 0.9 * s),
    "brightness": lambda pixels, s: op.brightness(pixels, 1 + 0.9 * s),
    "sharpness": lambda pixels, s: op.sharpness(pixels, 1 + 0.9 * s),
    "shear_x": lambda pixels, s: op.affine(pixels, ((1, 0.3 * s, 0), (0, 1, 0))),
    "shear_y": lambda pixels, s: op.affine(pixels, ((1, 0, 0), (0.3 * s, 1, 0))),
    "translate_x": lambda pixels, s: op.affine(pixels, ((1, 0, _shift(pixels, 1, s)), (0, 1, 0))),
    "translate_y": lambda pixels, s: op.affine(pixels, ((1, 0, 0), (0, 1, _shift(pixels, 0, s)))),
}
_IN_ORDER = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class DrawnOperations:
    operations: np.ndarray  # int64 [samples, n]: places in OPERATIONS
    strengths: np.ndarray  # float64 [samples, n]: m / 10 with a sign

    @classmethod
    def draw(cls, augment: RandAugment, seed: int, epochs: np.ndarray, ids: np.ndarray) -> "DrawnOperations":
        draws = uniform(keyed(seed, _RANDAUGMENT, epochs, ids), 2 * augment.n).reshape(len(ids), augment.n, 2)
        operations = np.floor(draws[..., 0] * len(OPERATIONS)).astype(np.int64)
        return cls(operations, np.where(draws[..., 1] < 0.5, -1.0, 1.0) * (augment.m / _MAX_M))

    def apply(self, pixels: Pixels, row: int) -> Pixels:
        for number, strength in zip(self.operations[row].tolist(), self.strengths[row].tolist(), strict=True):
            pixels = _IN_ORDER[number](pixels, strength)
        return pixels
