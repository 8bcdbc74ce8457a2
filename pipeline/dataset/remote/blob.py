"""A remote file of a dataset, read by ranges: as a local one, but that it may take a while, and may be refused."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final, TypeVar
from urllib.parse import unquote

from pipeline.dataset.blob import Part, Unanswered, Unreadable
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.remote import objects, ranges
from pipeline.dataset.remote.patience import Missing, NoAnswer, Patience, Refused, Unexpected, persist
from pipeline.dataset.remote.traffic import Traffic
from pipeline.dataset.remote.urls import is_http, public

Result = TypeVar("Result")
_RESIGNED: Final = 1 / 6  # of the patience, for a file that has just used up all of it


class RemoteBlob:
    """An object behind a URL. Nothing is asked before the first read.

    A file that did not answer for as long as we have patience is asked with little from then on, until it answers:
    or each of its thousands of samples would be waited for as long.
    """

    def __init__(
        self, url: str, patience: Patience | None = None, size: int | None = None, traffic: Traffic | None = None
    ) -> None:
        """`size`: where it is known. `traffic`: where requests are counted. Raises UsageError."""
        self.name = _file_name(url)
        self._url, self._size = url, size
        self._patience = Patience.ours() if patience is None else patience
        self._traffic = Traffic() if traffic is None else traffic
        self._resigned = ""  # why it did not answer the last time

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length); fewer only where the file ends before.

        Raises:
            Unreadable: the server refuses, or does not answer.
            WorkFailed: no credentials, or they are refused: nothing will be had of any file.
        """
        return self._persist(lambda: self._read_once(offset, length))

    def read_parts(self, parts: Sequence[Part]) -> list[bytes]:
        """Several parts, ascending and close to each other, out of one range. Raises as `read`."""
        start = parts[0][0]
        block = memoryview(self.read(start, max(offset + length for offset, length in parts) - start))
        return [bytes(block[offset - start : offset - start + length]) for offset, length in parts]

    def size(self) -> int:
        """Bytes of the file. Raises as `read`."""
        if self._size is None:
            self._size = self._persist(lambda: ranges.size(self._url, self._patience.silence_s))
        return self._size

    def close(self) -> None:
        """Connections are everyone's."""

    def _read_once(self, offset: int, length: int) -> bytes:
        silence = self._patience.silence_s
        data = ranges.get(self._url, offset, length, silence, self._traffic)
        if len(data) < length:  # the file's end, or an answer that was cut short
            expected = max(0, min(length, ranges.size(self._url, silence) - offset))
            if len(data) != expected:
                raise Unexpected(f"{len(data):,} of {expected:,} bytes came")
        return data

    def _persist(self, once: Callable[[], Result]) -> Result:
        patience = self._patience
        if self._resigned:
            patience = replace(patience, seconds=patience.seconds * _RESIGNED)
        try:
            result = persist(once, patience, self._traffic.again, self._resigned)
        except Refused as error:
            raise Unreadable(str(error)) from None
        except UsageError as error:
            raise WorkFailed(str(error)) from None
        except NoAnswer as error:
            self._resigned = error.reason
            raise Unanswered(f"{error.reason}, for as long as it was asked") from None  # equal causes are one report
        self._resigned = ""
        return result


def read_file(url: str) -> bytes:
    """A whole small file.

    Raises:
        FileNotFoundError: there is none.
        UsageError, WorkFailed: a server refuses, or does not answer.
    """
    try:
        return objects.read(url)
    except Missing:
        raise FileNotFoundError(f"{public(url)}: does not exist") from None
    except Refused as error:
        raise UsageError(f"{public(url)}: {error}") from None


def _file_name(url: str) -> str:
    """The last part of a URL, as it is called where it is a file."""
    if is_http(url):
        return unquote(PurePosixPath(re.split(r"[?#]", url, maxsplit=1)[0]).name)
    return url.rstrip("/").rpartition("/")[2]
