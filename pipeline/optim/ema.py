"""An exponential moving average of the weights over the steps (Polyak averaging), sharded as the weights are.

    average <- decay * average + (1 - decay) * weights

of the fp32 masters, after every step, where each rank averages what it updates: there is no communication, and nothing
waits for the device. It begins as the weights are at its first step. It is kept beside Adam's moments, in the
optimizer's state, where a checkpoint finds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from pipeline.optim.masters import create_moments, masters, publish

AVERAGE: Final = "ema"


class WeightAverage:
    """The average of one engine's weights, float32, of each master tensor's shape and on its device."""

    def __init__(self, engine: Any, decay: float) -> None:
        self._engine, self._decay = engine, decay
        create_moments(engine)  # AdamW takes a state that has anything in it for complete
        owned = masters(engine)
        self._weights = [master.tensor.detach() for master in owned]
        self._averages = [weights.clone() for weights in self._weights]
        for master, average in zip(owned, self._averages, strict=True):
            master.state[AVERAGE] = average

    def begin(self) -> None:
        """Sets it to the weights as they are now."""
        torch._foreach_copy_(self._averages, self._weights)

    def update(self) -> None:
        """Adds the weights as a step has left them."""
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - self._decay)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it, the model works with the average; after it, with its weights, to the last bit. For all ranks.

        After an exception only what a checkpoint needs is as before: a rank that failed must not wait for the others.
        """
        self._swap()
        publish(self._engine)
        try:
            yield
        finally:
            self._swap()
        publish(self._engine)

    def _swap(self) -> None:
        for weights, average in zip(self._weights, self._averages, strict=True):
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)
