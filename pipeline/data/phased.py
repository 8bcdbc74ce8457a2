"""The loaders of a run that changes its images' size under way, as one: each reads the steps of a phase, no further."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from pipeline.data.batch import MicroBatch
from pipeline.data.loader import Loader


class PhasedLoader:
    """One loader after the other. An iterator, as a `Loader` is; the first one's workers start at once.

    A ring has images of one size, so the next loader is made once the last micro-batch of the one before was used. What
    that had read beyond its last step, to have whole chunks, is read again; it was never counted.
    """

    def __init__(self, makers: Iterable[Callable[[], Loader]]) -> None:
        """`makers`: of each phase's loader, at least one."""
        self._makers = deque(makers)
        self._loader = self._makers.popleft()()

    def __iter__(self) -> Iterator[MicroBatch]:
        return self

    def __next__(self) -> MicroBatch:
        """Raises as `Loader` does."""
        while (batch := next(self._loader, None)) is None:
            if not self._makers:
                raise StopIteration
            self._loader.close()
            self._loader = self._makers.popleft()()
        return batch

    def close(self) -> None:
        """Ends the workers."""
        self._loader.close()
