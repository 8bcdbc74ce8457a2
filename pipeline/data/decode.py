"""Encoded bytes and a box -> pixels of the model's size, decoding no more than the box needs."""

import cv2
import numpy as np

from pipeline.dataset.images import ImageError, decode, read_header

cv2.setNumThreads(0)  # parallelism is the loader's workers; a result must not depend on a thread count


def crop_resize(data: bytes, indexed_size: tuple[int, int], box: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3] RGB: the box (left, top, width, height) of the upright image, resized.

    A JPEG is decoded at the smallest k/8 of its size at which the box still has `size` pixels a side. Shrinking
    averages areas, enlarging interpolates linearly.

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
    shrinks = crop.shape[0] >= size and crop.shape[1] >= size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
