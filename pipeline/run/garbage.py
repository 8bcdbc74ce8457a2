"""Python's garbage collector, kept from stopping one rank in the midst of a step, for which all others would wait.

A collection looks at every object there is, very many after the imports of torch and DeepSpeed: a tenth of a second
or more, at a moment of its own on each rank, so that on many ranks some step is always late. What is there when the
first step begins is left out for good, and then it runs when it is told to: at flushes, on all ranks at the same step.
"""

import gc
from types import TracebackType


class Garbage:
    """Within it, nothing is collected but by `collect`."""

    def __enter__(self) -> "Garbage":
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        gc.enable()
        gc.unfreeze()

    def collect(self) -> None:
        """What has come since the first step, which is little."""
        gc.collect()
