"""Colour jitter as torchvision defines it: brightness, contrast, saturation and hue, each by its own random amount,
in a random order.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config import ColorJitter
from pipeline.data import operations as op
from pipeline.data.keyed import keyed, uniform
from pipeline.data.operations import Pixels

_JITTER = 17  # domain of the hash
_OPERATIONS = (op.brightness, op.contrast, op.saturation, op.hue)
_NEUTRAL = np.array([1.0, 1.0, 1.0, 0.0])


@dataclass(frozen=True)
class DrawnJitter:
    orders: np.ndarray  # int64 [samples, 4]: places in _OPERATIONS
    amounts: np.ndarray  # float64 [samples, 4]: factors of brightness, contrast and saturation; turn of the hue

    @classmethod
    def draw(cls, jitter: ColorJitter, seed: int, epochs: np.ndarray, ids: np.ndarray) -> "DrawnJitter":
        draws = uniform(keyed(seed, _JITTER, epochs, ids), 8)
        reach = np.array([jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue])
        low = np.maximum(_NEUTRAL - reach, [0, 0, 0, -1])
        amounts = low + (_NEUTRAL + reach - low) * draws[:, :4]
        return cls(np.argsort(draws[:, 4:], axis=1, kind="stable"), amounts)

    def apply(self, pixels: Pixels, row: int) -> Pixels:
        amounts = self.amounts[row].tolist()
        for number in self.orders[row].tolist():
            if amounts[number] != _NEUTRAL[number]:
                pixels = _OPERATIONS[number](pixels, amounts[number])
        return pixels
