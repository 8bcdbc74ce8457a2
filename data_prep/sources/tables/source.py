"""Tables that name images by path or URL."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.common.remote import read
from data_prep.foreign.packed import LabelError
from data_prep.sources.base import ROWS_PER_BATCH, UNKNOWN_BYTES, Place, Source
from data_prep.sources.files import base_name, shown
from data_prep.sources.labels import LabelStyle
from data_prep.sources.local import read_file
from data_prep.sources.rows import Row, to_batch
from data_prep.sources.tables.cells import Located, labels_of, locate
from data_prep.sources.tables.columns import Columns
from data_prep.sources.tables.formats import Chunk, TableFile, table_file
from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import ImageError
from pipeline.dataset.names import escape, to_bytes, unescape
from pipeline.dataset.remote.urls import is_url


@dataclass(frozen=True)
class TableSource(Source):
    """Tables of one kind. `base` is the folder or URL that relative paths start from."""

    files: tuple[str, ...]
    base: str
    name: str
    columns: Columns
    remote: bool
    numbered: bool
    multi: bool
    class_names: tuple[str, ...] | None
    untyped: bool

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        for file in self.files:
            table = checked(file, self.columns, ignored)
            wanted = [self.columns.image, *self.columns.wanted]
            for chunk in table.chunks(wanted, dict(self.columns.extra), ROWS_PER_BATCH):
                places = [locate(cell, self.base) for cell in chunk.values[self.columns.image]]
                style = LabelStyle(self.numbered, self.multi)
                yield listing(table, chunk, places, [0] * len(places), self.columns, style)

    def read(self, place: Place) -> bytes:
        name = unescape(place.file)
        if is_url(name):
            return read(name)
        if is_url(self.base):
            raise ImageError("a local path in a remote table")
        return read_file(to_bytes(name if name.startswith("/") else f"{self.base}/{name}"), UNKNOWN_BYTES)


def checked(file: str, columns: Columns, ignored: Counter[str]) -> TableFile:
    """A file that has the columns that the first one has. Raises UsageError, WorkFailed."""
    table = table_file(file)
    present = table.columns()
    for name in (columns.image, *columns.wanted):
        if present and name not in present:
            raise UsageError(f"{shown(file)}: no column {escape(name)!r}, which the first table has")
    known = {name for name, _ in columns.extra}
    later = [name for name in present if name not in (columns.image, *columns.wanted, *known)]
    if later:
        ignored["columns of tables that --where cannot use"] += len(later)
    return table


def listing(
    table: TableFile, chunk: Chunk, places: list[Located], offsets: list[int], columns: Columns, style: LabelStyle
) -> pa.RecordBatch:
    """The rows of a chunk as rows of a listing, with the extra columns."""
    name = escape(base_name(table.file))
    cells: Any = zip(*(chunk.values[column] for column in columns.labels), strict=True)
    keys = chunk.values[columns.key] if columns.key else None
    rows = []
    for position, (place, labelled) in enumerate(zip(places, cells, strict=True)):
        path, reject = place.path, place.reject
        if keys is not None:
            path = escape(str(keys[position])) if keys[position] not in (None, "") else ""
            reject = reject or (None if path else "no key")
        values: list[str] = []
        try:
            labels = labels_of(labelled, table.text, style.numbered)
            values = list(labels.values)
            reject = reject or style.refusal(labels)
        except LabelError as error:
            reject = reject or str(error)
        path = path or f"{name}/{chunk.start + position}"
        if reject is not None:
            reject = f"{reject} ({name}, {chunk.where(position)})"
        rows.append(Row(path, values, UNKNOWN_BYTES, place.file, offsets[position], reject))
    batch = to_batch(rows)
    return pa.RecordBatch.from_pydict(dict(zip(batch.schema.names, batch.columns, strict=True)) | chunk.extra)
