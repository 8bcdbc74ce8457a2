"""The three ways in which a shard may hold its samples, and how one of them is read: one range of the file, and a check
that what lies there is what the index says.

webdataset  our own tars: a USTAR header with the key before the image, and behind it the label's member
tar         tars of others: the header's name, with that of the tar, gives the key (keys.py); the label is the index's
mds         MosaicML's: the key column, or the shard's name and the row, give the key; the label is the index's
"""

import json
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from os import pread
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.dataset.blob import Blob, Bytes, LocalBlob, Unreadable
from pipeline.dataset.keys import KEY_DIGITS, is_key, own_key
from pipeline.dataset.manifest import Container
from pipeline.dataset.mds import Field, MdsError, MdsShard
from pipeline.dataset.row import Columns, IndexRow

TAR_BLOCK: Final = 512
MODE_AND_OWNER: Final = b"0000644\0" + b"0000000\0" * 2  # in the headers that `shard` writes, behind the name
_BEHIND_NAME: Final = b"\0" * (100 - KEY_DIGITS - len(".jpg")) + MODE_AND_OWNER + b"%011o\0"
_JPG: Final = b"%b.jpg" + _BEHIND_NAME  # the headers that `shard` writes, of a key and a size, up to that
_CLS: Final = b"%b.cls" + _BEHIND_NAME
MAX_LABEL_BYTES: Final = 64 * TAR_BLOCK  # of a list of labels
_ANOTHER: Final = "the shard holds another member here than its index says"


class Packed(NamedTuple):
    """A sample as it lies in its shard. `key` is what was read there; `labels` too, where the container has them."""

    key: str
    data: Bytes
    labels: tuple[int, ...]


class ShardFile(ABC):
    """One shard, open for reading. A sample is one range of its bytes: `extent` says which, `parse` checks them."""

    def __init__(self, shard: Path | Blob, name: str | None = None) -> None:
        """`name`: what the dataset calls it, where its file is called otherwise. Raises OSError, of a path."""
        self.blob = LocalBlob(shard) if isinstance(shard, Path) else shard
        self.name = name or self.blob.name  # keys of others' samples depend on it

    def close(self) -> None:
        """No more reads after this."""
        self.blob.close()

    def read(self, row: IndexRow) -> Packed:
        """The sample of a row of the shard's index. Raises Unreadable."""
        try:
            offset, length = self.extent(row)
            packed = self.parse(row, self.blob.read(offset, length), length)
        except OSError as error:
            raise Unreadable(f"cannot read: {error.strerror}") from None
        return packed._replace(data=bytes(packed.data))

    @abstractmethod
    def extent(self, row: IndexRow) -> tuple[int, int]:
        """(offset, length) of the bytes that `parse` needs. Raises Unreadable; OSError where it has to look."""

    def parse(self, row: IndexRow, block: bytes | bytearray, length: int) -> Packed:
        """The sample out of the bytes of its extent, of this length; `data` is a view of them.

        Raises Unreadable, also where the shard ended too early.
        """
        if len(block) < length:
            raise Unreadable(f"the shard ends {length - len(block)} bytes too early")
        return self._parse(row, block)

    @abstractmethod
    def _parse(self, row: IndexRow, block: bytes | bytearray) -> Packed: ...


class WebDatasetFile(ShardFile):
    """A tar of our own."""

    def extent(self, row: IndexRow) -> tuple[int, int]:
        _, offset, size, labels, _, _ = row
        ahead = 1 if len(labels) == 1 else -(-min(16 + 12 * len(labels), MAX_LABEL_BYTES) // TAR_BLOCK)
        return _before(offset), _tail(size) + (1 + ahead) * TAR_BLOCK

    def parse(self, row: IndexRow, block: bytes | bytearray, length: int) -> Packed:
        if len(row.labels) == 1 and len(block) >= length and _is_as_written(row.key, row.size, row.labels[0], block):
            return Packed(row.key, memoryview(block)[TAR_BLOCK : TAR_BLOCK + row.size], row.labels)
        return super().parse(row, block, length)

    def read_as_written(self, columns: Columns) -> list[memoryview | None]:
        """The images of these rows that lie there as `shard` writes them, each by a read of its own; None of others.

        For many rows that lie apart in a file of this node: a third faster than `extent`, a read and `parse` of each.
        """
        assert isinstance(self.blob, LocalBlob)
        fd = self.blob.fd
        images: list[memoryview | None] = []
        for key, offset, size, labels in zip(columns.keys, columns.offsets, columns.sizes, columns.labels, strict=True):
            image = None
            if len(labels) == 1 and offset >= TAR_BLOCK:
                with suppress(OSError):
                    block = pread(fd, _tail(size) + 2 * TAR_BLOCK, offset - TAR_BLOCK)
                    if _is_as_written(key, size, labels[0], block):
                        image = memoryview(block)[TAR_BLOCK : TAR_BLOCK + size]
            images.append(image)
        return images

    def _parse(self, row: IndexRow, block: bytes | bytearray) -> Packed:
        name, size = parse_header(bytes(block[:TAR_BLOCK]))
        key = name.rpartition("/")[2].partition(".")[0]
        if key != row.key or size != row.size:
            raise Unreadable(_ANOTHER)
        labels = _parse_labels(bytes(block[_tail(size) :]), key)
        if labels != row.labels:
            raise Unreadable(f"the shard says label {_shown(labels)}, its index {_shown(row.labels)}")
        return Packed(key, memoryview(block)[TAR_BLOCK : TAR_BLOCK + size], labels)


class TarFile(ShardFile):
    """A tar of another's making."""

    def extent(self, row: IndexRow) -> tuple[int, int]:
        return _before(row.offset), TAR_BLOCK + row.size

    def _parse(self, row: IndexRow, block: bytes | bytearray) -> Packed:
        name, size = parse_header(bytes(block[:TAR_BLOCK]))
        key = own_key(self.name, name) if name else ""
        if key != row.key or size != row.size:
            raise Unreadable(_ANOTHER)
        return Packed(key, memoryview(block)[TAR_BLOCK:], row.labels)


class MdsFile(ShardFile):
    """An MDS shard."""

    @cached_property
    def _head(self) -> MdsShard:
        """Where its samples lie: read once."""
        try:
            return MdsShard.read(self.blob)
        except MdsError as error:
            raise Unreadable(str(error)) from None

    def extent(self, row: IndexRow) -> tuple[int, int]:
        number = self._number(row)
        begin, end = map(int, self._head.offsets[number : number + 2])
        return begin, end - begin

    def _number(self, row: IndexRow) -> int:
        number = self._head.number_at(row.offset)
        if number < 0:
            raise Unreadable(_ANOTHER)
        return number

    def _parse(self, row: IndexRow, block: bytes | bytearray) -> Packed:
        number = self._number(row)
        begin = int(self._head.offsets[number])
        try:
            fields = self._head.fields(number, block)
        except MdsError as error:
            raise Unreadable(str(error)) from None
        if Field(row.offset, row.size) not in fields.values():
            raise Unreadable(_ANOTHER)
        key = mds_key(self.name, number, key_text(self._head, fields, begin, block))
        if key != row.key:
            raise Unreadable(_ANOTHER)
        return Packed(key, memoryview(block)[row.offset - begin : row.offset - begin + row.size], row.labels)


FILES: Final[dict[Container, type[ShardFile]]] = {"webdataset": WebDatasetFile, "tar": TarFile, "mds": MdsFile}


def open_shard(container: Container, shard: Path | Blob, name: str | None = None) -> ShardFile:
    """Opens a shard, which the dataset may call by another `name` than its file's. Raises OSError, of a path."""
    return FILES[container](shard, name)


def _before(offset: int) -> int:
    """Where the tar header of a member lies."""
    if offset < TAR_BLOCK:
        raise Unreadable(_ANOTHER)
    return offset - TAR_BLOCK


def _tail(size: int) -> int:
    """Where, after the beginning of its header, the header of the member behind one of this size lies."""
    return TAR_BLOCK - size // -TAR_BLOCK * TAR_BLOCK


def _is_as_written(key: str, size: int, label: int, block: bytes | bytearray) -> bool:
    """Whether KEY.jpg of this size, and KEY.cls, are here byte by byte as `shard` writes them.

    Then they need not be taken apart, which takes ten times as long. What is here otherwise may still be right.
    """
    name, digits, tail = key.encode(), b"%d" % label, _tail(size)
    return (
        len(name) == KEY_DIGITS
        and block.startswith(_JPG % (name, size))
        and block.startswith(_CLS % (name, len(digits)), tail)
        and block.startswith(digits, tail + TAR_BLOCK)
    )


def parse_header(block: bytes) -> tuple[str, int]:
    """(member's path, size) of a plain tar header, POSIX 1003.1-1988, GNU's or V7's; ("", -1) if it is none."""
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    try:
        size = int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return "", -1
    return (prefix + b"/" * bool(prefix) + name).decode("utf-8", "surrogateescape"), size


def key_text(head: MdsShard, fields: dict[str, Field], begin: int, sample: Bytes) -> str | None:
    """What the key column of a sample says, if there is one."""
    column = head.key_column
    if column is None:
        return None
    at = fields[column.name].offset - begin
    return str(sample[at : at + fields[column.name].size], "utf-8", "replace")


def mds_key(shard: str, number: int, text: str | None) -> str:
    """The key of a sample of an MDS shard: what its key column says, where that is a key; else one by its place."""
    return text if text is not None and is_key(text) else own_key(shard, str(number))


def _parse_labels(blocks: bytes, key: str) -> tuple[int, ...] | None:
    """The numbers in KEY.cls or KEY.json, whose header and content these tar blocks are; None if they are not."""
    name, size = parse_header(blocks[:TAR_BLOCK])
    content = blocks[TAR_BLOCK : TAR_BLOCK + max(0, size)]
    if name == f"{key}.cls":
        return (int(content),) if content.isdigit() else None
    if name != f"{key}.json" or len(content) != size:
        return None
    try:
        values = json.loads(content)["labels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(values) if isinstance(values, list) and all(type(value) is int for value in values) else None


def _shown(labels: tuple[int, ...] | None) -> str:
    """One label as the number that it is."""
    return str(labels[0]) if labels and len(labels) == 1 else str(None if labels is None else list(labels))
