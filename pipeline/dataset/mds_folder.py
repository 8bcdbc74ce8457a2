"""An MDS folder as it lies, without a dataset.json: trained on as a dataset is, and nothing of it is read before.

Its index.json says which shards there are, how long they are and which columns they have. Which sample lies where, a
shard says at its beginning; a sample's key and label lie in the sample.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.dataset.blob import Blob, Bytes, Unreadable
from pipeline.dataset.containers import Packed, ShardFile
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import canonical_json
from pipeline.dataset.keys import is_key, own_key
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import MIN_SAMPLE_BYTES, Manifest, Shard
from pipeline.dataset.mds import Column, Field, MdsError, fields_of, key_column
from pipeline.dataset.mds_columns import INTEGERS, choose_columns, shown
from pipeline.dataset.mds_listing import CLASSES_NAME, HASH_NAME, INDEX_NAME, Entry, parse_classes, parse_index
from pipeline.dataset.names import escape
from pipeline.dataset.row import Columns, IndexRow

_TEXTS: Final = ("str", "str_int")
_WHOLE_BYTES: Final = 2**17  # samples up to this size are read whole for their key: one request, not two


@dataclass(frozen=True)
class Layout:
    """Which columns a sample has, and what they are."""

    columns: tuple[Column, ...]
    image: str
    label: Column
    key: str | None

    @classmethod
    def of(cls, columns: Sequence[Column]) -> "Layout":
        """Raises UsageError where no image or no label can be had of these columns."""
        chosen, key = choose_columns(columns), key_column(columns)
        label = chosen.label
        if label is None:
            raise UsageError(f"no label column ({shown(columns)}); call one of type int or str label")
        if label.encoding not in (*INTEGERS, *_TEXTS):
            advice = "make a dataset of it: vitstream index FOLDER --out DATASET"
            raise UsageError(
                f"labels of type {escape(label.encoding)[:40]} are not read from a folder as it lies; {advice}"
            )
        return cls(tuple(columns), chosen.image.name, label, key.name if key else None)


@dataclass(frozen=True)
class MdsManifest(Manifest):
    """What an index.json says, as a manifest. `key_sum` is None: nobody has added up the keys.

    A shard's `xxh3` is "" where index.json has no such hash. Its name is `paths` with '--' for each '/'.
    """

    paths: tuple[str, ...] = ()  # of the shards, below the folder
    layout: Layout | None = None
    contents: str = ""  # SHA-256 of all that index.json says of the shards

    def path(self, number: int) -> str:
        return self.paths[number]

    @property
    def key_sum(self) -> None:  # type: ignore[override]
        return None

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Equal where index.json and the classes are: as far as index.json has no hashes, the shards may differ."""
        return hashlib.sha256(canonical_json({"mds": self.contents, "classes": self.classes})).hexdigest()

    @cached_property
    def class_numbers(self) -> dict[str, int]:
        """Name -> id."""
        return {name: number for number, name in enumerate(self.classes)}


class MdsIndex:
    """A shard's own table of where its samples lie, as an index: read once, with one request, 8 bytes per sample.

    Rows have no labels and no width and height (0): the sample has the first, the image's header the second. Their key
    is the one by place: what the key column says comes with the sample.
    """

    def __init__(self, blob: Blob, manifest: MdsManifest, number: int) -> None:
        """Raises Unreadable."""
        shard = manifest.shards[number]
        self._blob, self._layout, self._name = blob, manifest.layout, shard.name
        size = 4 + 4 * (shard.samples + 1)
        try:
            table = blob.read(0, size)
        except OSError as error:
            raise Unreadable(f"cannot read: {error.strerror}") from None
        words = np.frombuffer(table[: len(table) // 4 * 4], "<u4").astype(np.int64)
        if len(words) < shard.samples + 2 or words[0] != shard.samples:
            raise Unreadable(f"not the shard of {shard.samples:,} samples that {INDEX_NAME} says")
        self._offsets = words[1:]
        if self._offsets[0] < size or (np.diff(self._offsets) < 0).any() or self._offsets[-1] != shard.bytes:
            raise Unreadable(f"where its samples lie is damaged, or it is another shard than {INDEX_NAME} says")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def row(self, position: int) -> IndexRow:
        """The sample at `position`: `offset` and `size` are of all of it."""
        begin, end = map(int, self._offsets[position : position + 2])
        return IndexRow(own_key(self._name, str(position)), begin, end - begin, (), 0, 0)

    def columns(self, positions: Sequence[int]) -> Columns:
        """The samples at these positions, field by field."""
        return Columns(*map(list, zip(*map(self.row, positions), strict=True)))

    def key(self, position: int) -> str:
        """The key of a sample, for which one has to look into it where there is a key column. Raises Unreadable."""
        row = self.row(position)
        if self._layout is None or self._layout.key is None:
            return row.key
        try:
            head = self._blob.read(row.offset, row.size if row.size <= _WHOLE_BYTES else 4 * len(self._layout.columns))
            place = fields_of(self._layout.columns, 0, row.size, head)[self._layout.key]
            if place.offset + place.size > len(head):
                return _key(row, self._blob.read(row.offset + place.offset, min(place.size, 64)))
            return _key(row, bytes(_value(head, place)))
        except OSError as error:
            raise Unreadable(f"cannot read: {error.strerror}") from None
        except MdsError as error:
            raise Unreadable(f"sample {position} {error}") from None

    def find(self, key: str) -> int | None:
        """Position of `key` in this shard, or None. Where there is a key column, it looks into sample after sample.

        Raises Unreadable.
        """
        return next((position for position in range(len(self)) if self.key(position) == key), None)


class MdsFolderFile(ShardFile):
    """A shard of such a folder; its rows are an MdsIndex's."""

    def __init__(self, blob: Blob, manifest: MdsManifest, number: int) -> None:
        super().__init__(blob, manifest.shards[number].name)
        assert manifest.layout is not None
        self._manifest, self._layout = manifest, manifest.layout

    def extent(self, row: IndexRow) -> tuple[int, int]:
        return row.offset, row.size

    def _parse(self, row: IndexRow, block: bytes | bytearray) -> Packed:
        layout, view = self._layout, memoryview(block)
        try:
            fields = fields_of(layout.columns, 0, row.size, block)
        except MdsError as error:
            raise Unreadable(f"the sample {error}") from None
        key = _key(row, bytes(_value(view, fields[layout.key]))) if layout.key else row.key
        label = self._label(key, bytes(_value(view, fields[layout.label.name])))
        return Packed(key, _value(view, fields[layout.image]), (label,))

    def _label(self, key: str, value: bytes) -> int:
        """Raises Unreadable; WorkFailed for a class that nobody has named."""
        encoding = self._layout.label.encoding
        try:
            if encoding in INTEGERS:
                number, name = int(np.frombuffer(value, INTEGERS[encoding])[0]), ""
            else:
                name = escape(value.decode().strip())
                number = self._manifest.class_numbers.get(name, len(self._manifest.classes))
        except (ValueError, IndexError):
            raise Unreadable(f"its label is no {encoding}") from None
        if number < 0:
            raise Unreadable(f"label {number} is no class id")
        if number >= len(self._manifest.classes):
            say = (
                f"{self.name}: sample {key} is of class {repr(name[:80]) if name else number}, which is not one of the"
            )
            raise WorkFailed(f"{say} {len(self._manifest.classes):,} classes; see data.classes", "data", False)
        return number


def mds_manifest(location: Location, classes: int | Path | None, needs_classes: bool = True) -> MdsManifest:
    """An MDS folder's manifest.

    Args:
        classes: how many, or a file with a name per line, where the folder does not say. See `class_names`.
        needs_classes: False for who only wants to know what lies where; then there may be none.

    Raises:
        FileNotFoundError: no index.json there.
        UsageError: it is not one that can be trained on as it lies; or the classes are not known.
        OSError, WorkFailed: it cannot be read.
    """
    place = location / INDEX_NAME
    entries = parse_index(place.read(), place)
    layout = _layout(entries, place)
    packed = next((entry for entry in entries if entry.compression is not None), None)
    if packed is not None and (location.is_remote or not (location / packed.path).path.exists()):
        raise UsageError(
            f"{location}: {escape(packed.name)} is compressed ({packed.compression}), so no sample of it can be read "
            "alone: decompress the shards, or write the samples anew with vitstream shard"
        )
    names = class_names(location, classes, needs_classes)
    listed = [(e.path, e.samples, e.bytes, e.hashes) for e in entries]
    contents = {"shards": listed, "columns": [(c.name, c.encoding, c.size) for c in layout.columns]}
    return MdsManifest(
        classes=names,
        labels="single",
        shards=tuple(_shard(entry, place) for entry in entries),
        container="mds",
        paths=tuple(entry.path for entry in entries),
        layout=layout,
        contents=hashlib.sha256(canonical_json(contents)).hexdigest(),
    )


def class_names(location: Location, given: int | Path | None, needed: bool = True) -> tuple[str, ...]:
    """The classes of a folder: those of its classes.json; else those that were given.

    Raises:
        UsageError: neither is there, or they contradict each other.
    """
    place = location / CLASSES_NAME
    try:
        known = parse_classes(place.read(), place)
    except FileNotFoundError:
        if given is None and needed:
            raise UsageError(
                f"{location}: an MDS folder without {CLASSES_NAME}: say how many classes it has with data.classes: N, "
                "or name a file with one class name per line, data.classes: FILE"
            ) from None
        return () if given is None else _given(given)
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror})") from None
    agree(location, known, given)
    return known


def agree(location: Location, known: tuple[str, ...], given: int | Path | None) -> None:
    """Raises UsageError where data.classes says something else than what lies there."""
    if given is not None and (len(known) != given if isinstance(given, int) else known != _given(given)):
        what = f"{given:,}" if isinstance(given, int) else f"{given}"
        raise UsageError(f"data.classes: {what} is not what {location} has, {len(known):,} classes: leave the key out")


def _given(classes: int | Path) -> tuple[str, ...]:
    if isinstance(classes, int):
        return tuple(map(str, range(classes)))
    try:
        names = tuple(escape(line.strip()) for line in classes.read_text().splitlines())
    except OSError as error:
        raise UsageError(f"data.classes: {classes}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"data.classes: {classes}: is no UTF-8 text; write one class name per line") from None
    if not names or "" in names or len(set(names)) < len(names):
        raise UsageError(f"data.classes: {classes}: needs one class name per line, each once; line n is class n - 1")
    return names


def _layout(entries: Sequence[Entry], place: Location) -> Layout:
    first = entries[0]
    for entry in entries:
        if entry.columns is None:
            raise UsageError(f"{place}: does not say which columns {escape(entry.name)} has; write it with MDSWriter")
        if entry.columns != first.columns:
            advice = "make a dataset of it: vitstream index FOLDER --out DATASET"
            raise UsageError(f"{place}: {escape(entry.name)} has other columns than {escape(first.name)}; {advice}")
    try:
        return Layout.of(first.columns or ())
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def _shard(entry: Entry, place: Location) -> Shard:
    if entry.samples * MIN_SAMPLE_BYTES["mds"] > entry.bytes:
        raise UsageError(
            f"{place}: {entry.samples:,} samples do not fit in {escape(entry.name)}: {entry.bytes:,} bytes"
        )
    xxh3 = dict(entry.hashes).get(HASH_NAME, "")
    return Shard(entry.name, entry.samples, entry.bytes, xxh3, key_sum="")


def _value(block: Bytes, place: Field) -> Bytes:
    return block[place.offset : place.offset + place.size]


def _key(row: IndexRow, value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return text if is_key(text) else row.key
