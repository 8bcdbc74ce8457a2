"""What may be done to pixels: uint8 [H, W, 3] RGB, contiguous, in; a new array of the same shape out.

The definitions are Pillow's (ImageOps, ImageEnhance, Image.rotate, Image.transform), which RandAugment and colour
jitter are defined by; the work is OpenCV's, which is several times faster and lets other threads run. They agree
within the rounding of a pixel. A `factor` of 1 changes nothing, 0 gives what the operation leaves of an image.
"""

import math

import cv2
import numpy as np

Pixels = np.ndarray

GREY = 128  # what comes in from outside, as in the authors' code: the middle of the model's range
_LEVELS = np.arange(256)
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, Pillow's "L"
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH
_AS_IT_IS = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """0 is black."""
    return _mapped(pixels, _LEVELS * factor)


def contrast(pixels: Pixels, factor: float) -> Pixels:
    """0 is the image's mean grey."""
    mean = math.floor(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _mapped(pixels, mean + (_LEVELS - mean) * factor)


def saturation(pixels: Pixels, factor: float) -> Pixels:
    """0 is the grey image. Blending each pixel with its grey is one matrix, f I + (1 - f) 1 luma'."""
    return cv2.transform(pixels, factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1)))


def sharpness(pixels: Pixels, factor: float) -> Pixels:
    """0 is the smoothed image. Blending with it is one kernel; the outermost pixels stay, as Pillow has it."""
    kernel = factor * _AS_IT_IS + (1 - factor) * _SMOOTH
    blended = pixels.copy()
    blended[1:-1, 1:-1] = cv2.filter2D(pixels, -1, kernel)[1:-1, 1:-1]
    return blended


def hue(pixels: Pixels, turn: float) -> Pixels:
    """Turns the colour circle by a share of it, in 256 steps."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # wraps, as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def solarize(pixels: Pixels, threshold: int) -> Pixels:
    """Inverts levels of `threshold` and above; 256 changes nothing."""
    return _mapped(pixels, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def posterize(pixels: Pixels, bits: int) -> Pixels:
    """Keeps the `bits` most significant bits of every level, 0 to 8."""
    return pixels & np.uint8(256 - (1 << (8 - bits)))


def autocontrast(pixels: Pixels) -> Pixels:
    """Stretches each channel so that its darkest level becomes 0 and its brightest 255."""
    tables = []
    for counts in histograms(pixels):
        used = np.flatnonzero(counts)
        low, high = used[0], used[-1]
        scale = 255 / max(1, high - low)  # in Pillow's order, as a fraction next to a whole number is dropped or not
        tables.append(_LEVELS * scale - low * scale if high > low else _LEVELS)
    return _mapped(pixels, np.stack(tables, axis=-1))


def equalize(pixels: Pixels) -> Pixels:
    """Maps each channel's levels by its cumulative histogram, so that they become about equally frequent."""
    tables = []
    for counts in histograms(pixels):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        tables.append((step // 2 + below) // step if step else _LEVELS)
    return _mapped(pixels, np.stack(tables, axis=-1))


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Counter-clockwise about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = pixels.shape[1] / 2, pixels.shape[0] / 2
    return affine(pixels, ((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)))


def affine(pixels: Pixels, source: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Pixels:
    """Takes what lies at (x', y') = source (x, y, 1) to (x, y), interpolated linearly; outside is grey.

    Coordinates are Pillow's: a pixel is a square, its centre at (0.5, 0.5) of its corner; OpenCV puts 0 there.
    """
    matrix = np.array(source, np.float64)
    matrix[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    return cv2.warpAffine(
        pixels,
        matrix,
        pixels.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(GREY, GREY, GREY),
    )


def _mapped(pixels: Pixels, table: np.ndarray) -> Pixels:
    """`table` [256], or [256, 3] by channel: the new level of each level, cut to 0..255; fractions are dropped."""
    return cv2.LUT(pixels, np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, -1))


def histograms(pixels: Pixels) -> list[np.ndarray]:
    """int64 [256] for each channel; OpenCV counts in float32, exact to 16 million pixels."""
    return [cv2.calcHist([pixels], [c], None, [256], [0, 256]).ravel().astype(np.int64) for c in range(3)]
