"""Tar members, byte for byte: written the one way we write them, and read without trusting what is there.

USTAR (POSIX 1003.1-1988): a 512-byte header, the content, zeros up to the next multiple of 512; at the end two
blocks of zeros, then zeros up to a multiple of 10,240.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import xxhash

from pipeline.dataset.containers import MODE_AND_OWNER

BLOCK: Final = tarfile.BLOCKSIZE
MAX_MEMBER_BYTES: Final = 2**31
# The fields of a header between those that differ; numbers are octal digits.
_TIME: Final = b"\0" + b"0" * 11 + b"\0"
_REST: Final = (tarfile.REGTYPE.ljust(101, b"\0") + tarfile.POSIX_MAGIC).ljust(173, b"\0") + bytes(183)
_FIXED_SUM: Final = sum(MODE_AND_OWNER + _TIME + _REST) + 8 * ord(" ")
_PADDING: Final = tuple(bytes(count) for count in range(BLOCK))


class TarError(Exception):
    """A tar that is not as we write it; the message says where and how."""


@dataclass(frozen=True)
class Member:
    """One regular file of a tar."""

    name: str
    offset: int  # of its first byte; the header is 512 before
    data: bytes


def member(name: str, data: bytes) -> bytes:
    """Header, content and padding. No time, owner or mode of anyone's in it.

    Raises:
        ValueError: a name that is not ASCII or has more than 100 bytes, or more than 8 GiB of content.
    """
    return b"".join((_header(name, len(data)), data, _PADDING[-len(data) % BLOCK]))


class TarWriter:
    """Writes a tar into an open file, from its start, and hashes what goes into it, so that no second pass is needed.

    The kernel takes the pieces from where they lie (writev): joining them first would cost as much as writing them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file  # and with it the descriptor
        self._hasher = xxhash.xxh3_64()
        self.size = 0  # bytes so far

    def add(self, *members: tuple[str, bytes]) -> int:
        """Writes members, of (name, content), one behind the other. Returns the offset of the first one's content.

        Raises:
            OSError: it could not be written; the file is of no use then.
            ValueError: a name or a size that a USTAR header cannot hold.
        """
        pieces = []
        for name, data in members:
            pieces += (_header(name, len(data)), data, _PADDING[-len(data) % BLOCK])
        start = self.size + BLOCK
        self._write(pieces)
        return start

    def close(self) -> None:
        """Writes what closes a tar; the file itself stays open."""
        self._write([end_of_archive(self.size)])

    def hexdigest(self) -> str:
        """xxh3-64 of the whole so far."""
        return self._hasher.hexdigest()

    def _write(self, pieces: list[bytes]) -> None:
        size = 0
        for piece in pieces:
            self._hasher.update(piece)
            size += len(piece)
        written = os.writev(self._file.fileno(), pieces)
        if written < size:  # a disk that is full, or more than 2 GiB
            rest = memoryview(b"".join(pieces))
            while written < size:
                written += os.write(self._file.fileno(), rest[written:])
        self.size += size


def _header(name: str, size: int) -> bytes:
    """What tarfile's TarInfo(name).tobuf() gives, in a tenth of its time: there are two of these to an image."""
    encoded, digits = name.encode("ascii"), b"%011o" % size
    if len(encoded) > 100 or len(digits) > 11:
        raise ValueError(f"{name}, {size} bytes: more than a USTAR header can say")
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(encoded) + sum(digits))  # of all bytes, those of its own as spaces
    return b"".join((encoded.ljust(100, b"\0"), MODE_AND_OWNER, digits, _TIME, checksum, _REST))


def end_of_archive(size: int) -> bytes:
    """What closes a tar of `size` bytes."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def members(file: BinaryIO) -> Iterator[Member]:
    """All members in order, one in memory at a time.

    Raises:
        TarError: a damaged header, anything but a regular file, a name with a folder in it, a cut or unclosed end.
    """
    offset = 0
    while True:
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise TarError(f"ends at byte {offset + len(header):,}, without the two blocks that close a tar")
        if header == bytes(BLOCK):
            _check_end(file, offset)
            return
        name, size = _parse_header(header, offset)
        padded = size + -size % BLOCK
        content = file.read(padded)
        if len(content) < padded:
            raise TarError(f"ends at byte {offset + BLOCK + len(content):,}, within {name}")
        if any(content[size:]):
            raise TarError(f"padding of {name} is not zero")
        yield Member(name, offset + BLOCK, content[:size])
        offset += BLOCK + padded


def _parse_header(header: bytes, offset: int) -> tuple[str, int]:
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeError) as error:
        raise TarError(f"damaged header at byte {offset:,} ({error})") from None
    if header[257:265] != tarfile.POSIX_MAGIC:
        raise TarError(f"header at byte {offset:,} is not USTAR")
    if header[156:157] != tarfile.REGTYPE:
        raise TarError(f"{info.name!r} at byte {offset:,} is not a regular file")
    if "/" in info.name or "." not in info.name.strip("."):
        raise TarError(f"{info.name!r} at byte {offset:,} is not of the form KEY.suffix")
    if not 0 <= info.size < MAX_MEMBER_BYTES:
        raise TarError(f"{info.name!r} at byte {offset:,} says it has {info.size:,} bytes")
    return info.name, info.size


def _check_end(file: BinaryIO, offset: int) -> None:
    rest = file.read(tarfile.RECORDSIZE + 1)
    if len(rest) < BLOCK or len(rest) > tarfile.RECORDSIZE or any(rest):
        raise TarError(f"closes at byte {offset:,}, but not with zeros up to its end")
