"""Many reads at once, in order: what hides the latency of a remote source."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from data_prep.sources.base import Place, Source
from pipeline.dataset.images import ImageError


def prefetch(source: Source, places: Sequence[Place], threads: int) -> Iterator[bytes | ImageError]:
    """What `source.read` says of every place, in order. Up to `threads` of them are read ahead, and held in memory.

    Raises:
        WorkFailed: the source does not answer.
    """

    def fetch(place: Place) -> bytes | ImageError:
        try:
            return source.read(place)
        except ImageError as error:
            return error

    pending: deque[Future[bytes | ImageError]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for place in places:
            pending.append(pool.submit(fetch, place))
            if len(pending) >= threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
