"""Boxes of a random area and aspect ratio: what the inception crop and random erasing have in common.

A box is (left, top, width, height) in pixels.
"""

import numpy as np

ATTEMPTS = 10
DRAWS = 4 * ATTEMPTS  # uniform numbers per box


def random_boxes(
    draws: np.ndarray, sizes: np.ndarray, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(float64 boxes [n, 4] of whole numbers, bool [n]: the box lies inside) in images of `sizes` ([n, 2], w and h).

    Args:
        draws: float64 [n, DRAWS] in [0, 1).
        area: shares of the image, between which a box's area is uniform.
        aspect: width / height, log-uniform between the two.

    Each box is the first of ten tries that fits into its image; where none does, it is of no use.
    """
    tries = draws.reshape(len(draws), ATTEMPTS, 4)
    width, height = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    low, high = area
    pixels = width * height * (low + (high - low) * tries[..., 0])
    log_low, log_high = np.log(aspect)
    ratio = np.exp(log_low + (log_high - log_low) * tries[..., 1])
    w, h = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    left = np.floor(tries[..., 2] * (width - w + 1))
    top = np.floor(tries[..., 3] * (height - h + 1))

    first = fits.argmax(axis=1)[:, None]
    boxes = np.concatenate([np.take_along_axis(v, first, axis=1) for v in (left, top, w, h)], axis=1)
    return boxes, fits.any(axis=1)
