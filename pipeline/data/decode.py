"""Encoded bytes and a box -> pixels of the model's size, decoding no more than the box needs.

Two thirds of a JPEG's time go into reading its Huffman codes, which has no way around any of them, so a scaled decode
saves at most the other third; and at scales other than 1/2, 1/4 and 1/8 it costs more than the whole image. What else
was measured and left out is in docs/benchmarks.md.
"""

from typing import Final

import cv2
import numpy as np

from pipeline.dataset.images import ImageError, decode, read_header

cv2.setNumThreads(0)  # parallelism is the loader's workers; a result must not depend on a thread count

_LINEAR: Final = 4 / 3  # up to this ratio linear samples skip too little of the picture to matter


def crop_resize(
    data: bytes,
    indexed_size: tuple[int, int],
    box: np.ndarray,
    size: int,
    flip: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 [size, size, 3] RGB: the box (left, top, width, height) of the upright image, resized; mirrored if `flip`.

    A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 at which the box still has `size` pixels a side. With
    `out`, contiguous and of the result's shape, the pixels are written there and nowhere else. Equal arguments give
    equal pixels. The interpreter's lock is not held meanwhile: threads are about as fast as processes.

    Raises:
        ImageError: corrupt, or not of the size (width, height) that the index says.
    """
    header = read_header(data, max_pixels=indexed_size[0] * indexed_size[1])
    width, height = header.width, header.height
    if (width, height) != indexed_size:
        raise ImageError(f"is {width} x {height} pixels, its index says {indexed_size[0]} x {indexed_size[1]}")
    left, top, box_width, box_height = (int(v) for v in box)
    scale = min(1.0, max(size / box_width, size / box_height))
    pixels = decode(data, header, min_width=int(np.ceil(width * scale)), min_height=int(np.ceil(height * scale)))

    x_scale, y_scale = pixels.shape[1] / width, pixels.shape[0] / height
    x0, x1 = round(left * x_scale), max(round(left * x_scale) + 1, round((left + box_width) * x_scale))
    y0, y1 = round(top * y_scale), max(round(top * y_scale) + 1, round((top + box_height) * y_scale))
    crop = pixels[y0:y1, x0:x1]
    if flip:  # last, of the smaller array; numpy would take 30 times as long over it
        return cv2.flip(_resize(crop, size, None), 1, dst=out)
    return _resize(crop, size, out)


def _resize(crop: np.ndarray, size: int, out: np.ndarray | None) -> np.ndarray:
    """[height, width, 3] -> [size, size, 3]: antialiased where it shrinks, linear where it enlarges.

    cv2's INTER_AREA takes as long as decoding. Linear samples at twice the size, averaged 2 x 2 (which is what a linear
    sample at exactly one half is), look at every pixel up to a ratio of 2 x 4/3, in less than half the time.
    """
    height, width = crop.shape[:2]
    ratio = max(height, width) / size
    if ratio > 2 * _LINEAR:  # a format that is never decoded scaled, or a thin image
        crop = cv2.resize(crop, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    elif ratio > _LINEAR:
        crop = cv2.resize(crop, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(crop, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
