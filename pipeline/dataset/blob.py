"""The bytes of one file of a dataset, wherever it lies: read by ranges."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from pipeline.dataset.files import open_regular

Bytes = bytes | memoryview  # a view saves a copy
Part = tuple[int, int]  # offset and length, in bytes
_MOST_PIECES: Final = os.sysconf("SC_IOV_MAX")  # of one preadv(2)


class Unreadable(Exception):
    """A sample, or a file, that cannot be had; the message is the cause, in one line."""


class Unanswered(Unreadable):
    """A server has not answered for as long as we had patience. It would not answer for the neighbours either."""


class Blob(Protocol):
    """One file, open for reading. Safe to read from several threads at once."""

    name: str  # the file's own, without folders: for messages

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length); fewer only where the file ends before.

        Raises:
            OSError: the file system refuses.
            Unreadable: a server refuses, or does not answer for as long as we have patience.
        """

    def read_parts(self, parts: Sequence[Part]) -> Sequence[bytes | bytearray]:
        """Several parts, ascending and close to each other, with one request; each in memory of its own.

        Raises as `read`; parts beyond the file's end are short.
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

    def read_parts(self, parts: Sequence[Part]) -> list[bytearray]:
        wanted, pieces, at = [], [], parts[0][0]
        for offset, length in parts:
            if offset > at:
                pieces.append(bytearray(offset - at))  # read for nothing
            wanted.append(bytearray(length))
            pieces.append(wanted[-1])
            at = offset + length
        if sum(map(len, pieces)) != at - parts[0][0] or len(pieces) > _MOST_PIECES:  # some overlap
            return [bytearray(self.read(*part)) for part in parts]
        if os.preadv(self.fd, pieces, parts[0][0]) == at - parts[0][0]:
            return wanted
        return [bytearray(self.read(*part)) for part in parts]  # the file ends, or a bad sector: which will say so

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        self._file.close()


class BytesBlob:
    """A file, or a part of one, that is in memory already."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self._data = name, data

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def size(self) -> int:
        return len(self._data)

    def close(self) -> None:
        """Nothing is open."""
