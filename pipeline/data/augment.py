"""Crops and flips as pure functions of (seed, epoch, sample id): there is no random state to save or to lose.

A box is (left, top, width, height) in pixels of the whole image.
"""

import numpy as np

from pipeline.config import Augment
from pipeline.data.keyed import keyed, uniform

_ATTEMPTS = 10
_AUGMENT = 4  # domain of the hash; order.py uses 1 to 3


def training_boxes(
    augment: Augment, seed: int, epochs: np.ndarray, ids: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(int64 boxes [n, 4], bool flips [n]) for samples of `sizes` (int64 [n, 2]: width, height).

    The inception crop (Szegedy et al. 2015, section 6): an area and a log-uniform aspect ratio at random, up to
    ten tries until the box fits into the image; then the largest centred box of an allowed aspect ratio.
    """
    draws = uniform(keyed(seed, _AUGMENT, epochs, ids), 1 + 4 * _ATTEMPTS)
    flips = draws[:, 0] < 0.5 if augment.flip else np.zeros(len(ids), bool)
    if augment.crop == "none":
        return np.concatenate([np.zeros_like(sizes), sizes], axis=1), flips

    tries = draws[:, 1:].reshape(len(ids), _ATTEMPTS, 4)
    width, height = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    low, high = augment.area
    area = width * height * (low + (high - low) * tries[..., 0])
    log_low, log_high = np.log(augment.aspect)
    aspect = np.exp(log_low + (log_high - log_low) * tries[..., 1])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    left = np.floor(tries[..., 2] * (width - w + 1))
    top = np.floor(tries[..., 3] * (height - h + 1))

    first = fits.argmax(axis=1)[:, None]
    boxes = np.concatenate([np.take_along_axis(v, first, axis=1) for v in (left, top, w, h)], axis=1)
    fallback = _largest_centred(sizes, augment.aspect)
    return np.where(fits.any(axis=1)[:, None], boxes, fallback).astype(np.int64), flips


def centre_boxes(sizes: np.ndarray, crop: float) -> np.ndarray:
    """int64 boxes [n, 4]: the centred square whose side is `crop` times the shorter side."""
    side = np.maximum(1, np.rint(sizes.min(axis=1) * crop)).astype(np.int64)
    return np.stack([(sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2, side, side], axis=1)


def _largest_centred(sizes: np.ndarray, aspect: tuple[float, float]) -> np.ndarray:
    width, height = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    w = np.maximum(1, np.minimum(width, np.rint(height * aspect[1])))
    h = np.maximum(1, np.minimum(height, np.rint(width / aspect[0])))
    return np.stack([(width - w) // 2, (height - h) // 2, w, h], axis=1)
