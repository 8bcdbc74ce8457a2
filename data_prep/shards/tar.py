"""Tar members, byte for byte: written the one way we write them, and read without trusting what is there.

USTAR (POSIX 1003.1-1988): a 512-byte header, the content, zeros up to the next multiple of 512; at the end two
blocks of zeros, then zeros up to a multiple of 10,240.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

BLOCK: Final = tarfile.BLOCKSIZE
MAX_MEMBER_BYTES: Final = 2**31


class TarError(Exception):
    """A tar that is not as we write it; the message says where and how."""


@dataclass(frozen=True)
class Member:
    """One regular file of a tar."""

    name: str
    offset: int  # of its first byte; the header is 512 before
    data: bytes


def member(name: str, data: bytes) -> bytes:
    """Header, content and padding. No time, owner or mode of anyone's in it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    return b"".join((header, data, bytes(-len(data) % BLOCK)))


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
