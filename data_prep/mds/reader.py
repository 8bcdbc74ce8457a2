"""An MDS folder, read without mosaicml-streaming: index.json, and which columns hold image and label.

Nothing of a sample is ever unpickled: a column of type `pkl` is passed over.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from data_prep.foreign.packed import NO_LABELS, LabelError, Labels, from_cls, from_json, from_value
from pipeline.dataset.containers import mds_key
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import is_plain_name
from pipeline.dataset.mds import Column, Field, MdsShard
from pipeline.dataset.names import escape, one_line

INDEX_NAME: Final = "index.json"
CLASSES_NAME: Final = "classes.json"  # ours: the names behind the numbers
IMAGE_ENCODINGS: Final = ("jpeg", "png", "bytes")
IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "x")
LABEL_NAMES: Final = ("label", "labels", "cls", "class", "class_id", "target", "y")
INTEGERS: Final = {"int": "<i8"} | {
    f"{kind}int{bits}": f"<{kind or 'i'}{bits // 8}" for kind in ("", "u") for bits in (8, 16, 32, 64)
}
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
class Columns:
    """Which columns of a shard are used."""

    image: Column
    label: Column | None


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
        body = json.loads(path.read_bytes())
        if body["version"] != 2:
            raise UsageError(f"{path}: MDS version {str(body['version'])[:20]}, this vitstream reads 2")
        shards = [_listed(folder, entry) for entry in body["shards"]]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path}: no index of an MDS folder, or a damaged one") from None
    if not shards:
        raise UsageError(f"{path}: names no shards")
    return shards


def read_classes(folder: Path) -> tuple[str, ...] | None:
    """The class names that `vitstream convert` left beside the shards, if it did: escaped already, as in a manifest.

    Raises UsageError.
    """
    path = folder / CLASSES_NAME
    try:
        names = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise UsageError(f"{path}: damaged; it is a list of class names") from None
    texts = isinstance(names, list) and all(isinstance(name, str) and one_line(name) == name for name in names)
    if not texts or len(set(names)) < len(names):
        raise UsageError(f"{path}: damaged; it is a list of class names, each once, each one line")
    return tuple(names)


def choose_columns(columns: Sequence[Column]) -> Columns:
    """The columns that hold image and label: by name, else the only ones whose type fits.

    Raises:
        UsageError: none or several could be the image.
    """
    images = [column for column in columns if column.encoding in IMAGE_ENCODINGS]
    image = _by_name(images, IMAGE_NAMES) or _only([c for c in images if c.encoding != "bytes"]) or _only(images)
    if image is None:
        shown = ", ".join(f"{escape(c.name)}: {escape(c.encoding)}" for c in columns)
        what = f"no column of type {' or '.join(IMAGE_ENCODINGS)}" if not images else "several columns that may be it"
        raise UsageError(f"no image column: {what} ({shown}); call it {IMAGE_NAMES[0]}")
    labels = [c for c in columns if c is not image and _is_label(c)]
    label = _by_name(labels, LABEL_NAMES) or _only([c for c in labels if c.encoding in INTEGERS])
    return Columns(image, label)


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


def _is_label(column: Column) -> bool:
    return column.encoding in (*INTEGERS, "str", "str_int", "json") or column.encoding.partition(":")[0] == "ndarray"


def _by_name(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    found = {column.name.lower(): column for column in columns}
    return next((found[name] for name in names if name in found), None)


def _only(columns: Sequence[Column]) -> Column | None:
    return columns[0] if len(columns) == 1 else None


def _listed(folder: Path, entry: dict) -> ListedShard:
    raw, packed = entry["raw_data"], entry.get("zip_data")
    if entry["format"] != "mds":
        raise UsageError(f"{folder / INDEX_NAME}: shards of format {str(entry['format'])[:20]}; only mds can be used")
    names = [raw["basename"], *([packed["basename"]] if packed else [])]
    for name in names:
        if not isinstance(name, str) or not all(is_plain_name(part) for part in name.split("/")):
            raise UsageError(f"{folder / INDEX_NAME}: {str(name)[:80]!r} is no file inside the folder")
    whole = folder / names[0]
    compression = None
    if packed and not whole.exists():
        whole, compression = folder / names[1], str(entry.get("compression"))[:20]
    samples, size = entry["samples"], raw["bytes"]
    if not all(type(number) is int and number >= 0 for number in (samples, size)):
        raise TypeError  # damaged, says read_index
    return ListedShard(names[0].replace("/", "--"), whole, samples, size, compression)
