"""The bytes of one file of a dataset, wherever it lies: read by ranges."""

import os
from pathlib import Path
from typing import Protocol

from pipeline.dataset.files import open_regular


class Unreadable(Exception):
    """A sample, or a file, that cannot be had; the message is the cause, in one line."""


class Blob(Protocol):
    """One file, open for reading. Safe to read from several threads at once."""

    name: str  # the file's own, without folders: for messages

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length); fewer only where the file ends before.

        Raises:
            OSError: the file system refuses.
            Unreadable: a server refuses, or does not answer for as long as we have patience.
        """

    def size(self) -> int:
        """Bytes of the file. Raises as `read`."""

    def close(self) -> None:
        """No more reads after this."""


class LocalBlob:
    """A regular file of a file system."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be opened."""
        self.name = path.name
        self._file = open_regular(path)
        self.fd = self._file.fileno()

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        self._file.close()
