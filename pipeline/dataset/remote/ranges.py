"""One range of an object: asked for once, or, where the answer keeps us waiting, once more beside it."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from time import monotonic
from typing import Final

from pipeline.dataset.remote.filesystems import filesystem, result_of, start, start_get
from pipeline.dataset.remote.patience import Refused, error_code
from pipeline.dataset.remote.traffic import Traffic
from pipeline.dataset.remote.urls import is_http

_SLOWEST: Final = 256 * 2**10  # bytes per second, below which an attempt is given up


def get(url: str, offset: int, limit: int, silence: float, traffic: Traffic, timeout: float | None = None) -> bytes:
    """Bytes [offset, offset + limit), or fewer where the object ends before, or, of GCS, where the answer was cut.

    It is given up after `silence` seconds without a byte, and after `timeout`; the default of that goes by `limit`.

    Raises:
        Refused, Unexpected: as http.py and s3.py.
        TimeoutError: nothing for `silence` seconds, or too slow.
        Exception: of half a dozen libraries.
    """
    if limit <= 0:
        return b""
    timeout = silence + limit / _SLOWEST if timeout is None else timeout
    try:
        return _first_answer(lambda: start_get(url, offset, limit, silence), timeout, traffic, traffic.long_s(limit))
    except OSError as error:
        if error_code(error) not in ("InvalidRange", "416"):
            raise
        return b""  # it ends before `offset`


def size(url: str, silence: float) -> int:
    """Bytes of an object, which can be had by ranges. Raises as `get`."""
    if is_http(url):
        return result_of(start(url, "http", "length", silence, silence=silence), 2 * silence)
    info = filesystem(url, silence).info(url, timeout=2 * silence)
    if info["type"] != "file":
        raise Refused("not a file")
    return int(info["size"])


def _first_answer(ask: Callable[[], Future[bytes]], timeout: float, traffic: Traffic, long_s: float) -> bytes:
    """Of one request, or of two: the second one where the first takes longer than `long_s`, as few do."""
    begin, asked = monotonic(), [ask()]
    traffic.asked()
    try:
        wait(asked, min(timeout, long_s))
        if not asked[0].done() and traffic.hedge():
            asked.append(ask())
        pending, failed = set(asked), None
        while pending:
            done, pending = wait(pending, begin + timeout - monotonic(), FIRST_COMPLETED)
            if not done:
                raise TimeoutError
            for answer in done:
                failed = answer.exception()
                if failed is None:
                    traffic.answered(monotonic() - begin, len(answer.result()))
                    return answer.result()
        assert failed is not None
        raise failed
    finally:
        for request in asked:
            request.cancel()
