"""What an MDS shard says of itself (mosaicml-streaming's format, version 2), read without trusting it.

    uint32 n | uint32 offsets[n + 1] | JSON: names, encodings and sizes of the columns | n samples
    sample:  uint32 size of each column that has no fixed one | the columns' values, sorted by column name

All integers are little-endian. So an image lies in the file as it is, and can be read there.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.dataset.blob import Blob, Bytes

MAX_COLUMNS_BYTES: Final = 2**20
KEY_COLUMNS: Final = ("key", "__key__")


class MdsError(Exception):
    """No MDS shard, or a damaged one; the message says how, in one line."""


@dataclass(frozen=True)
class Column:
    """One column: `size` in bytes where it is the same in every sample."""

    name: str
    encoding: str
    size: int | None


@dataclass(frozen=True)
class Field:
    """Where in the shard the value of a column lies."""

    offset: int
    size: int


@dataclass(frozen=True)
class MdsShard:
    """The head of a shard. Sample i is bytes [offsets[i], offsets[i + 1])."""

    offsets: np.ndarray  # int64 [samples + 1]
    columns: tuple[Column, ...]

    @classmethod
    def read(cls, shard: int | Blob) -> "MdsShard":
        """Reads and checks the head of an open file, or of its descriptor.

        Raises:
            MdsError: it is no MDS shard, or its head is damaged.
            OSError, Unreadable: it cannot be read.
        """
        if isinstance(shard, int):
            size, read = os.fstat(shard).st_size, lambda offset, length: os.pread(shard, length, offset)
        else:
            size, read = shard.size(), shard.read
        count = int.from_bytes(read(0, 4), "little")
        table = 4 + 4 * (count + 1)
        if size < table:
            raise MdsError(f"says {count:,} samples, which do not fit in its {size:,} bytes")
        offsets = np.frombuffer(read(4, table - 4), "<u4").astype(np.int64)
        first = int(offsets[0]) if len(offsets) == count + 1 else -1
        if not table <= first <= table + MAX_COLUMNS_BYTES or (np.diff(offsets) < 0).any() or offsets[-1] != size:
            raise MdsError("where its samples lie is damaged, or it is no MDS shard")
        return cls(offsets, _columns(read(table, first - table)))

    @property
    def samples(self) -> int:
        return len(self.offsets) - 1

    def column(self, name: str) -> Column | None:
        """The column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def key_column(self) -> Column | None:
        """The column that holds keys, if there is one."""
        return key_column(self.columns)

    def number_at(self, offset: int) -> int:
        """The sample that byte `offset` of the file belongs to; -1 where it is none's."""
        number = int(np.searchsorted(self.offsets, offset, side="right")) - 1
        return number if number < self.samples else -1

    def fields(self, number: int, sample: bytes) -> dict[str, Field]:
        """Where each column's value of sample `number`, whose bytes these are, lies in the file.

        Raises:
            MdsError: the sizes do not add up to the sample.
        """
        begin, end = map(int, self.offsets[number : number + 2])
        try:
            return fields_of(self.columns, begin, end, sample)
        except MdsError as error:
            raise MdsError(f"sample {number} {error}") from None


def key_column(columns: Sequence[Column]) -> Column | None:
    """The column that holds keys, if there is one."""
    return next((c for c in columns if c.name in KEY_COLUMNS and c.encoding == "str"), None)


def fields_of(columns: Sequence[Column], begin: int, end: int, sample: Bytes) -> dict[str, Field]:
    """Where each column's value of a sample lies, which is bytes [begin, end) of the file.

    Args:
        sample: its bytes, or the first of them: those that say how large the columns are.

    Raises:
        MdsError: the sizes do not add up to the sample.
    """
    variable = sum(not column.size for column in columns)
    if 4 * variable > len(sample):
        raise MdsError("is damaged: it has no room for the sizes of its columns")
    sizes = iter(np.frombuffer(sample[: 4 * variable], "<u4").tolist())
    at = begin + 4 * variable
    found = {}
    for column in columns:
        size = column.size or next(sizes)
        found[column.name] = Field(at, size)
        at += size
    if at != end:
        raise MdsError(f"is damaged: its columns take {at - begin:,} bytes")
    return found


def _columns(text: bytes) -> tuple[Column, ...]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise MdsError("its list of columns is damaged, or it is no MDS shard") from None
    return columns_of(config)


def columns_of(config: Any) -> tuple[Column, ...]:
    """The columns out of a shard's own JSON, or out of its entry in index.json. Raises MdsError."""
    try:
        lists = [config[f"column_{what}"] for what in ("names", "encodings", "sizes")]
        columns = tuple(Column(*values) for values in zip(*lists, strict=True))
    except (ValueError, KeyError, TypeError):
        raise MdsError("its list of columns is damaged, or it is no MDS shard") from None
    for column in columns:
        texts = isinstance(column.name, str) and isinstance(column.encoding, str)
        if not texts or not (column.size is None or (type(column.size) is int and 0 <= column.size < 2**32)):
            raise MdsError("its list of columns is damaged")
    if len({column.name for column in columns}) < len(columns):
        raise MdsError("names a column twice")
    return columns
