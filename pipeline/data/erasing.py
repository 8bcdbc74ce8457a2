"""Random erasing: noise over a random box (Zhong et al. 2017, arXiv 1708.04896), the variant the paper finds best,
in which every pixel and channel gets a random level of its own.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config import RandomErasing
from pipeline.data.boxes import DRAWS, random_boxes
from pipeline.data.keyed import keyed, uniform
from pipeline.data.operations import Pixels

_ERASING, _NOISE = 18, 19  # domains of the hash


@dataclass(frozen=True)
class DrawnErasing:
    boxes: np.ndarray  # int64 [samples, 4]: left, top, width, height; zeros where nothing is erased
    noise: np.ndarray  # uint64 [samples]: keys of the noise

    @classmethod
    def draw(
        cls, erasing: RandomErasing, seed: int, epochs: np.ndarray, ids: np.ndarray, image_size: int
    ) -> "DrawnErasing":
        draws = uniform(keyed(seed, _ERASING, epochs, ids), 1 + DRAWS)
        sizes = np.full((len(ids), 2), image_size)
        boxes, fit = random_boxes(draws[:, 1:], sizes, erasing.area, erasing.aspect)
        erased = fit & (draws[:, 0] < erasing.probability)
        return cls(np.where(erased[:, None], boxes, 0).astype(np.int64), keyed(seed, _NOISE, epochs, ids))

    def apply(self, pixels: Pixels, row: int) -> Pixels:
        """In place."""
        left, top, width, height = self.boxes[row].tolist()
        if width:
            count = 3 * width * height
            words = keyed(self.noise[row : row + 1], np.arange(-(-count // 8)))
            noise = words.astype("<u8").view(np.uint8)[:count]  # little-endian: the same on every machine
            pixels[top : top + height, left : left + width] = noise.reshape(height, width, 3)
        return pixels
