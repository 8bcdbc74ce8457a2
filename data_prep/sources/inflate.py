"""Compressed files as streams: in a bounded memory, and with an end to how much comes out."""

import io
from typing import Any, BinaryIO, Final

import pyarrow as pa

SUFFIXES: Final = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
_RATIO: Final = 200  # images and labels are nearly incompressible; a bomb is what goes beyond
_SLACK: Final = 64 * 2**20
_PIECE: Final = 2**18


class Bomb(Exception):
    """A file that inflates beyond all measure, or is damaged; the message says which."""


def codec(name: str) -> str | None:
    """How a file of this name is compressed, or None."""
    return next((codec for suffix, codec in SUFFIXES.items() if name.lower().endswith(suffix)), None)


class Inflated(io.RawIOBase):
    """What is in a compressed file, from front to end; `seek` goes forward only."""

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._counted = _Counted(file)
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._counted, "r"), codec)
        self._at = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Raises io.UnsupportedOperation for anything but a place further on."""
        if whence != io.SEEK_SET or offset < self._at:
            raise io.UnsupportedOperation("only forward")
        while self._at < offset and self._take(min(_PIECE, offset - self._at)):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _take(self, size: int) -> bytes:
        """Raises Bomb."""
        try:
            data = self._stream.read(size)
        except (OSError, pa.ArrowException) as error:
            raise Bomb(f"damaged at byte {self._at:,} of its content ({str(error).splitlines()[0][:200]})") from None
        self._at += len(data)
        if self._at > _SLACK + _RATIO * self._counted.bytes:
            raise Bomb(f"inflates to more than {_RATIO} times its size: refused as a bomb")
        return data


class _Counted(io.RawIOBase):
    """Counts what is read of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.bytes += len(data)
        return data
