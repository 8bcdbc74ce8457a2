"""Tars of anybody's, read without trusting what is there: headers only, nothing is extracted, memory is bounded.

The ways in which a tar lies are many (CVE-2025-4517, CVE-2024-12718 and before): absolute names, `..`, links, devices,
sparse maps, names and sizes overridden in extended headers. A member of that kind is told apart and never read; where
it is not even certain where the next header lies, the whole tar is refused.

Formats: POSIX.1-1988 (ustar), POSIX.1-2001 (pax: of its records only `path` is used), GNU (long names) and V7.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

BLOCK: Final = 512
MAX_NAME_BYTES: Final = 4096  # PATH_MAX
MAX_EXTENDED_BYTES: Final = 64 * 2**10  # of an extended header or a long name
MAX_EXTENDED_HEADERS: Final = 8  # before one member
MAX_MEMBERS: Final = 5_000_000
_TRAILER: Final = 10_240  # what is looked at behind the end
_ZEROS: Final = bytes(BLOCK)
Kind = Literal["file", "folder", "link", "device", "sparse", "unknown", "bad header"]
_KINDS: Final[dict[bytes, Kind]] = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "link", b"3": "device", b"4": "device",
    b"5": "folder", b"6": "device", b"S": "sparse",
}  # fmt: skip
_REFUSED: Final[dict[Kind, str]] = {
    "link": "is a link, not a file",
    "device": "is a device or a pipe, not a file",
    "sparse": "is a sparse file",
    "unknown": "is of an unknown type",
    "bad header": "has an extended header that is damaged or too large",
}
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class BrokenTar(Exception):
    """A tar that cannot be read to its end; the message says where and why."""


@dataclass(frozen=True, slots=True)
class MemberHeader:
    """One member. Its content is bytes [offset, offset + size) of the tar."""

    name: str  # undecodable bytes as surrogates
    offset: int
    size: int
    kind: Kind
    plain_name: bool  # the name stands in the 512 bytes before `offset`, not in an extended header

    @property
    def refusal(self) -> str | None:
        """Why this member must not be used; None for a regular file or a folder with a decent name."""
        if self.kind in _REFUSED:
            return _REFUSED[self.kind]
        if self.name.startswith("/"):
            return "has an absolute name"
        if ".." in self.name.split("/"):
            return "has a name with '..'"
        if "\0" in self.name or not self.name.strip("/"):
            return "has no usable name"
        if len(self.name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            return f"has a name of more than {MAX_NAME_BYTES:,} bytes"
        return None


@dataclass
class _Extended:
    """What extended headers say of the member that follows."""

    path: bytes | None = None
    size: int | None = None
    sparse: bool = False
    bad: bool = False
    count: int = 0


def compression(head: bytes) -> str | None:
    """The name of the compression whose magic number these first bytes are, or None."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def iter_members(file: BinaryIO) -> Iterator[MemberHeader]:
    """All members in order, whatever they are. When one is yielded the file stands at its content, of which any part
    may be read before the next is asked for.

    `file` has read, tell and seek; where it is `seekable`, nothing but headers is read, and a member that goes on
    behind the end of the file is found at once.

    Raises:
        BrokenTar: no tar, compressed, damaged, cut short, or with sizes that cannot be trusted.
    """
    end = _end(file)
    offset = members = 0
    extended = _Extended()
    while True:
        header = _read_exactly(file, BLOCK, offset)
        if header == _ZEROS:
            _check_trailer(file, offset, extended)
            return
        kind, size, name = parse_header(header, offset)
        offset += BLOCK
        padded = size + -size % BLOCK
        if end is not None and offset + padded > end:
            raise BrokenTar(f"ends at byte {end:,}, within {_shown(name)!r}")
        if kind in b"xgXLK":
            extended = _extend(file, kind, size, offset, extended)
        else:
            yield _member(kind, size, name, offset, extended)
            extended = _Extended()
            members += 1
            if members > MAX_MEMBERS:
                raise BrokenTar(f"more than {MAX_MEMBERS:,} members")
        offset += padded
        file.seek(offset)


def _end(file: BinaryIO) -> int | None:
    """The size of a file that can be sought in; it stands at its start again."""
    if not file.seekable():
        return None
    end = file.seek(0, 2)
    file.seek(0)
    return end


def _read_exactly(file: BinaryIO, size: int, offset: int) -> bytes:
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    if len(data) < size:
        raise BrokenTar(f"ends at byte {offset + len(data):,}, without the blocks of zeros that close a tar")
    return data


def parse_header(header: bytes, offset: int) -> tuple[bytes, int, bytes]:
    """Type, bytes of content and name of one header block, which lies at byte `offset`. Raises BrokenTar."""
    stored = _number(header[148:156])
    # The checksum counts its own field as spaces. Some old writers summed signed bytes.
    plain = sum(header) - sum(header[148:156]) + 8 * 0x20
    if stored != plain and stored != plain - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
        found = compression(header)
        what = f"compressed ({found})" if found and offset == 0 else "no tar" if offset == 0 else "damaged"
        raise BrokenTar(f"{what}: no header at byte {offset:,}")
    kind = header[156:157]
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    if kind == b"\0" and name.endswith(b"/"):  # how V7 writes a folder
        kind = b"5"
    # Links, devices and folders have no content, whatever size they mention.
    size = 0 if kind in (b"1", b"2", b"3", b"4", b"5", b"6") else _number(header[124:136])
    if not 0 <= size < 2**62:
        raise BrokenTar(f"{_shown(name)!r} at byte {offset:,} says it has {size:,} bytes")
    return kind, size, name


def _number(text: bytes) -> int:
    """An octal number, or GNU's base 256 where the first bit is set; -1 for anything else."""
    if text[0] in (0o200, 0o377):
        return int.from_bytes(text[1:], "big") - (256 ** (len(text) - 1) if text[0] == 0o377 else 0)
    digits = text.split(b"\0", 1)[0].strip(b" ") or b"0"
    return -1 if digits.strip(b"01234567") else int(digits, 8)


def _member(kind: bytes, size: int, name: bytes, offset: int, extended: _Extended) -> MemberHeader:
    shown = name if extended.path is None else extended.path
    if extended.size is not None and extended.size != size:
        # Readers differ on which of the two counts, and so on where the next header lies.
        raise BrokenTar(f"{_shown(shown)!r} at byte {offset:,} has another size in its extended header")
    known: Kind = _KINDS.get(kind, "unknown")
    if extended.sparse:
        known = "sparse"
    if extended.bad:
        known = "bad header"
    return MemberHeader(_shown(shown), offset, size, known, extended.path is None and not extended.bad)


def _extend(file: BinaryIO, kind: bytes, size: int, offset: int, extended: _Extended) -> _Extended:
    extended.count += 1
    if extended.count > MAX_EXTENDED_HEADERS:
        raise BrokenTar(f"more than {MAX_EXTENDED_HEADERS} extended headers in a row at byte {offset:,}")
    if size > MAX_EXTENDED_BYTES:
        if kind != b"K":
            extended.bad = True
        return extended
    data = _read_exactly(file, size, offset)
    if kind == b"L":
        extended.path = data.split(b"\0", 1)[0]
    elif kind in b"xX":
        _apply(data, extended)
    elif kind == b"g":
        everywhere = _Extended()
        _apply(data, everywhere)
        if everywhere != _Extended():
            raise BrokenTar(f"a global header at byte {offset:,} names or resizes members")
    return extended


def _apply(data: bytes, extended: _Extended) -> None:
    """Reads pax records, `LENGTH KEY=VALUE\\n` each; of them all only the name counts."""
    at = 0
    while at < len(data) and data[at]:
        digits = data[at : at + 20].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != length or not equals or record[-1:] != b"\n":
            extended.bad = True
            return
        if key == b"path":
            extended.path = value
        elif key == b"size":
            extended.size = int(value) if value.isdigit() and len(value) < 20 else -1
        elif key.startswith(b"GNU.sparse."):
            extended.sparse = True
        at += length


def _check_trailer(file: BinaryIO, offset: int, extended: _Extended) -> None:
    """Tars that were concatenated go on behind the end of the first; most readers lose the rest in silence."""
    if extended.count:
        raise BrokenTar(f"closes at byte {offset:,}, behind an extended header without a member")
    if file.read(_TRAILER).strip(b"\0"):
        raise BrokenTar(f"goes on behind its end at byte {offset:,}: concatenated? Keep the tars apart")


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
