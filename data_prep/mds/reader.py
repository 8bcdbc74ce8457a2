"""An MDS folder, read without mosaicml-streaming: its shards, and the samples in them with their labels.

Nothing of a sample is ever unpickled: a column of type `pkl` is passed over.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from data_prep.foreign.packed import NO_LABELS, LabelError, Labels, from_cls, from_json, from_value
from pipeline.dataset.containers import mds_key
from pipeline.dataset.errors import UsageError
from pipeline.dataset.mds import Field, MdsShard
from pipeline.dataset.mds_columns import INTEGERS, Columns
from pipeline.dataset.mds_listing import CLASSES_NAME, INDEX_NAME, Entry, parse_classes, parse_index
from pipeline.dataset.names import escape

_VALUE_TYPES: Final = {8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 32: "<u4", 33: "<i4", 64: "<u8", 65: "<i8"}
_MAX_LABEL_BYTES: Final = 2**20


@dataclass(frozen=True)
class ListedShard:
    """One entry of index.json. `name` is plain: folders in it, as merged indexes have, are joined with '--'."""

    name: str
    path: Path
    samples: int
    bytes: int
    compression: str | None  # where only a compressed file is there: then `path` is that


@dataclass(frozen=True)
class MdsSample:
    """One row: where its image lies in the shard, and what is written beside it."""

    number: int
    key: str
    image: Field
    labels: Labels | LabelError


def is_mds(folder: Path) -> bool:
    """Whether it has an index.json."""
    return (folder / INDEX_NAME).is_file()


def read_index(folder: Path) -> list[ListedShard]:
    """The shards of FOLDER/index.json, in order.

    Raises:
        UsageError: no index.json, damaged, of another version or format, or it names files outside the folder.
    """
    path = folder / INDEX_NAME
    try:
        return [_listed(folder, entry) for entry in parse_index(path.read_bytes(), path)]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def read_classes(folder: Path) -> tuple[str, ...] | None:
    """The class names that `vitstream convert` left beside the shards, if it did. Raises UsageError."""
    path = folder / CLASSES_NAME
    try:
        return parse_classes(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    except OSError:
        raise UsageError(f"{path}: damaged; it is a list of class names") from None


def rows(name: str, fd: int, head: MdsShard, columns: Columns) -> Iterator[MdsSample]:
    """Every sample of an open shard called `name`. Of each, only its head, key and label are read.

    Raises:
        MdsError: damaged.
        OSError: cannot be read.
    """
    variable = 4 * sum(not column.size for column in head.columns)
    key_column = head.key_column
    for number in range(head.samples):
        begin = int(head.offsets[number])
        fields = head.fields(number, os.pread(fd, variable, begin))
        text = None
        if key_column is not None:
            place = fields[key_column.name]
            text = os.pread(fd, min(place.size, 64), place.offset).decode("utf-8", "replace")
        yield MdsSample(number, mds_key(name, number, text), fields[columns.image.name], _labels(fd, fields, columns))


def _labels(fd: int, fields: dict[str, Field], columns: Columns) -> Labels | LabelError:
    if columns.label is None:
        return NO_LABELS
    place = fields[columns.label.name]
    if place.size > _MAX_LABEL_BYTES:
        return LabelError("its label is too large")
    try:
        return decode_label(columns.label.encoding, os.pread(fd, place.size, place.offset))
    except LabelError as error:
        return error


def decode_label(encoding: str, data: bytes) -> Labels:
    """Labels of one of the encodings that hold numbers, names or lists of them. Raises LabelError."""
    try:
        if encoding in INTEGERS:
            return from_value(int(np.frombuffer(data, INTEGERS[encoding])[0]))
        if encoding == "str":
            return from_value(data.decode())
        if encoding == "str_int":
            return from_cls(data)
        if encoding == "json":
            value = json.loads(data)
            return from_json(data) if isinstance(value, dict) else from_value(value)
        return from_value(_array(encoding, data).tolist())
    except (ValueError, IndexError, KeyError, RecursionError):
        raise LabelError(f"its label is no {escape(encoding)[:40]}") from None


def _array(encoding: str, data: bytes) -> np.ndarray:
    """An ndarray of integers: its type and shape stand before the values, unless the encoding names them."""
    _, _, rest = encoding.partition(":")
    kind, _, shape = rest.partition(":")
    at = 0
    if not kind:
        dtype = _VALUE_TYPES[data[0]]
        at = 1
    else:
        dtype = INTEGERS[kind]
    if not shape:
        dimensions, width = data[at] >> 2, 2 ** (data[at] & 3)
        at += 1 + dimensions * width
    return np.frombuffer(data[at:], dtype).reshape(-1)


def _listed(folder: Path, entry: Entry) -> ListedShard:
    whole, compression = folder / entry.path, None
    if entry.packed_path is not None and not whole.exists():
        whole, compression = folder / entry.packed_path, entry.compression
    return ListedShard(entry.name, whole, entry.samples, entry.bytes, compression)
