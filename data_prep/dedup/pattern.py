"""The perceptual hash: 64 bits that stay nearly the same when an image is encoded anew, resized or brightened.

Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.1 and the pHash library:
grey, 32 x 32, two-dimensional DCT, and of its coefficients the 8 x 8 of lowest frequency without the first row and the
first column; bit i says whether coefficient i exceeds the median of the 64. We make the image small by averaging areas,
which also does the work of the blur that stands before it there.

As 32 of 64 coefficients exceed their median, every hash has 32 bits set, and two of them differ in an even number of
bits. A picture that is mirrored or turned has another hash: its odd coefficients change their sign.
"""

from typing import Final

import cv2
import numpy as np

SIDE: Final = 32
BITS: Final = 64
MIN_CONTRAST: Final = 2.0  # grey levels of 255
_BLOCK: Final = slice(1, 9)


def pattern_hash(pixels: np.ndarray) -> int | None:
    """The hash of uint8 [height, width, 3], RGB, in [0, 2**64); None where the image is flat.

    Of a flat image the 64 coefficients are next to nothing, and which of them exceed the median is chance. The DCT is
    orthonormal: by Parseval's theorem sqrt(sum(c**2) / 32**2) is the standard deviation, in grey levels, of the part of
    the small picture that these coefficients make up. Below MIN_CONTRAST there is nothing to compare.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    coefficients = cv2.dct(_shrunk(grey).astype(np.float32))[_BLOCK, _BLOCK].ravel()
    if float(np.sqrt(np.square(coefficients).sum())) / SIDE < MIN_CONTRAST:
        return None
    return int(np.packbits(coefficients > np.median(coefficients)).view(">u8")[0])


def _shrunk(grey: np.ndarray) -> np.ndarray:
    """uint8 [height, width] to [SIDE, SIDE], by averages.

    OpenCV averages areas of whole pixels several times as fast as others: so it is made a little larger first, to the
    next multiple of SIDE. (Smaller would be faster yet, but pixels would no longer count alike, and fewer resized
    pictures be found.)
    """
    height, width = grey.shape
    between = (SIDE * -(-width // SIDE), SIDE * -(-height // SIDE))
    if between != (width, height):
        grey = cv2.resize(grey, between)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def differing_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamming distance of uint64 hashes, uint8, element by element."""
    return np.bitwise_count(a ^ b)
