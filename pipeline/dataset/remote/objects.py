"""Remote objects: read whole or in parts, listed folder by folder, opened as files.

An object that is not there, or not for us, is Refused, or a SOURCE to be mended by the user; one that does not answer
is WorkFailed, and the same command goes on later.
"""

import io
import os
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final, TypeVar

from pipeline.dataset.errors import UsageError
from pipeline.dataset.ranged import RangedFile
from pipeline.dataset.remote import ranges
from pipeline.dataset.remote.filesystems import filesystem, result_of, start
from pipeline.dataset.remote.patience import Patience, Refused, Unexpected, patiently
from pipeline.dataset.remote.traffic import Traffic
from pipeline.dataset.remote.urls import is_http, public, scheme_of

Result = TypeVar("Result")
MAX_FILE_BYTES: Final = 512 * 2**20  # of one image, encoded


def read(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Bytes [offset, offset + size) of an object; the whole of it where `size` is None.

    Raises:
        Refused: the object does not exist, is not for us, is shorter than that, or larger than an image may be.
        WorkFailed: no answer that makes sense, for as long as we have patience.
        UsageError: what reads such URLs is not installed, or there are no credentials.
    """
    return patiently(url, lambda: _read_once(url, offset, size))


def size_of(url: str) -> int:
    """Bytes of an object that is to be read by ranges. Raises UsageError, WorkFailed."""
    return _usable(url, lambda: _size_once(url))


def list_folder(url: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Names of the folders, and (name, bytes) of the files, that lie directly below an s3:// or gs:// URL; each sorted
    by its bytes. Raises UsageError, WorkFailed."""
    if is_http(url):
        raise UsageError(f"{public(url)}: HTTP cannot list a folder; name a table of URLs, or tars")
    folders, files = _list_s3(url) if scheme_of(url) == "s3" else _usable(url, lambda: _list_once(url))
    return sorted(folders, key=os.fsencode), sorted(files, key=lambda file: os.fsencode(file[0]))


def open_url(url: str, block: int = 2**20) -> BinaryIO:
    """An object as a file that can be read from anywhere, `block` bytes at least at a time. Raises UsageError,
    WorkFailed, also while it is read."""
    return io.BufferedReader(_ObjectFile(url, size_of(url)), block)  # type: ignore[return-value]


class _ObjectFile(RangedFile):
    """An object of known size."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(size)
        self._url = url

    def readinto(self, buffer: Any) -> int:
        at, wanted = self.at, max(0, min(len(buffer), self.size - self.at))
        data = _usable(self._url, lambda: _read_once(self._url, at, wanted))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _usable(url: str, once: Callable[[], Result]) -> Result:
    """For what a whole SOURCE depends on: a definite refusal is the user's to mend."""
    try:
        return patiently(url, once)
    except Refused as error:
        raise UsageError(f"{public(url)}: {error}") from None


def _read_once(url: str, offset: int, size: int | None) -> bytes:
    silence = Patience.ours().silence_s
    limit, timeout = (MAX_FILE_BYTES + 1, 5 * silence) if size is None else (size, None)
    data = ranges.get(url, offset, limit, silence, Traffic(), timeout)
    if size is None and len(data) > MAX_FILE_BYTES:
        raise Refused(f"too large: more than {MAX_FILE_BYTES:,} bytes")
    if size is not None and len(data) != size:
        # Cut on its way, or shorter than it was when it was listed? Only the server can tell.
        if _size_once(url) < offset + size:
            raise Refused("changed since it was listed: it is shorter now")
        raise Unexpected(f"{len(data):,} of {size:,} bytes came")
    return data


def _size_once(url: str) -> int:
    return ranges.size(url, Patience.ours().silence_s)


def _list_s3(url: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Page by page: one that fails is asked for again, not all of them."""
    folders: list[str] = []
    files: list[tuple[str, int]] = []
    token: str | None = None
    while True:
        page = _usable(url, partial(_page_once, url, token))
        folders += page.folders
        files += page.files
        token = page.token
        if token is None:
            return folders, files


def _page_once(url: str, token: str | None) -> Any:
    silence = Patience.ours().silence_s
    return result_of(start(url, "s3", "page", token, silence=silence), 4 * silence)


def _list_once(url: str) -> tuple[list[str], list[tuple[str, int]]]:
    of = filesystem(url, Patience.ours().silence_s)
    root = of._strip_protocol(url).rstrip("/")
    folders, files = [], []
    for entry in of.ls(url, detail=True, refresh=True):  # GCS
        name = entry["name"].removeprefix(root + "/")
        if not name or "/" in name or entry["name"] == root:  # the folder's own marker; a key with two slashes
            continue
        if entry["type"] == "directory":
            folders.append(name)
        else:
            files.append((name, int(entry["size"])))
    return folders, files
