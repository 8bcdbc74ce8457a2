"""All that training does to one image, as pure functions of (seed, epoch, sample id): there is no random state to
save or to lose, and nothing depends on who else is in the batch.

    crop, resize and flip  ->  RandAugment (randaugment.py)  ->  colour jitter (jitter.py)  ->  erasing (erasing.py)
                                        or (big_vision.py)

The order is timm's. Erasing comes last: what is hidden stays hidden, a box with straight edges and noise in it, which
no later operation smooths, turns or colours.

A box is (left, top, width, height) in pixels of the whole image.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.config import Augment
from pipeline.data.big_vision import DrawnBigVision
from pipeline.data.boxes import DRAWS, random_boxes
from pipeline.data.erasing import DrawnErasing
from pipeline.data.jitter import DrawnJitter
from pipeline.data.keyed import keyed, uniform
from pipeline.data.randaugment import DrawnOperations

_AUGMENT = 4  # domain of the hash; order.py uses 1 to 3


def training_boxes(
    augment: Augment, seed: int, epochs: np.ndarray, ids: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(int64 boxes [n, 4], bool flips [n]) for samples of `sizes` (int64 [n, 2]: width, height).

    The inception crop (Szegedy et al. 2015, section 6): an area and a log-uniform aspect ratio at random, up to
    ten tries until the box fits into the image; then the largest centred box of an allowed aspect ratio.
    """
    draws = uniform(keyed(seed, _AUGMENT, epochs, ids), 1 + DRAWS)
    flips = draws[:, 0] < 0.5 if augment.flip else np.zeros(len(ids), bool)
    if augment.crop == "none":
        return np.concatenate([np.zeros_like(sizes), sizes], axis=1), flips
    boxes, fit = random_boxes(draws[:, 1:], sizes, augment.area, augment.aspect)
    fallback = _largest_centred(sizes, augment.aspect)
    return np.where(fit[:, None], boxes, fallback).astype(np.int64), flips


def centre_boxes(sizes: np.ndarray, crop: float) -> np.ndarray:
    """int64 boxes [n, 4]: the centred square whose side is `crop` times the shorter side."""
    side = np.maximum(1, np.rint(sizes.min(axis=1) * crop)).astype(np.int64)
    return np.stack([(sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2, side, side], axis=1)


def _largest_centred(sizes: np.ndarray, aspect: tuple[float, float]) -> np.ndarray:
    width, height = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    w = np.maximum(1, np.minimum(width, np.rint(height * aspect[1])))
    h = np.maximum(1, np.minimum(height, np.rint(width / aspect[0])))
    return np.stack([(width - w) // 2, (height - h) // 2, w, h], axis=1)


class Drawn(Protocol):
    """One kind of alteration, drawn for the samples of a micro-batch."""

    def apply(self, pixels: np.ndarray, row: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Draws:
    """What happens to the pixels of each sample of a micro-batch, once it is cropped, resized and flipped."""

    steps: tuple[Drawn, ...] = ()


def draw(augment: Augment, seed: int, epochs: np.ndarray, ids: np.ndarray, image_size: int) -> Draws:
    """Draws for the samples `ids` (int64 [n]) in their `epochs` (int64 [n]), whose pixels are `image_size` a side."""
    steps: list[Drawn] = []
    if augment.randaugment:
        of = DrawnBigVision if augment.randaugment.operations == "big_vision" else DrawnOperations
        steps.append(of.draw(augment.randaugment, seed, epochs, ids))
    if augment.color_jitter:
        steps.append(DrawnJitter.draw(augment.color_jitter, seed, epochs, ids))
    if augment.random_erasing:
        steps.append(DrawnErasing.draw(augment.random_erasing, seed, epochs, ids, image_size))
    return Draws(tuple(steps))


def apply(pixels: np.ndarray, draws: Draws, row: int) -> np.ndarray:
    """uint8 [S, S, 3]: the altered pixels of the sample that is number `row` of the draws. May write into `pixels`,
    which are contiguous, as OpenCV wants them."""
    for step in draws.steps:
        pixels = step.apply(pixels, row)
    return pixels
