"""The files that a source consists of, local or remote, named by path or URL."""

import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from data_prep.common.remote import read
from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import ImageError
from pipeline.dataset.names import escape, unescape
from pipeline.dataset.remote.objects import open_url
from pipeline.dataset.remote.urls import is_url, public

OPEN_FILES = 64  # per process


def base_name(file: str) -> str:
    """The last part of a path or URL, without a query."""
    return (urlsplit(file).path if is_url(file) else file).rstrip("/").rpartition("/")[2]


def shown(file: str) -> str:
    """A path or URL as it may be written down."""
    return public(file) if is_url(file) else escape(file)


def open_file(file: str) -> BinaryIO:
    """Raises UsageError, WorkFailed."""
    if is_url(file):
        return open_url(file)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageError(f"{escape(file)}: cannot be read ({error.strerror})") from None


def read_part(file: str, offset: int, size: int) -> bytes:
    """Bytes [offset, offset + size). `file` is escaped, as a listing has it. Raises ImageError, WorkFailed."""
    name = unescape(file)
    if is_url(name):
        return read(name, offset, size)
    try:
        data = os.pread(_opened(name).fileno(), size, offset)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None
    if len(data) < size:
        raise ImageError("changed since it was listed: it ends before the image does")
    return data


@lru_cache(maxsize=OPEN_FILES)
def _opened(name: str) -> BinaryIO:
    return Path(name).open("rb", buffering=0)  # closed when it falls out of the cache
