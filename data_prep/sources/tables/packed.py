"""Parquet with the images in it, as Hugging Face packs them: read row group by row group, from front to end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from data_prep.sources.base import ROWS_PER_BATCH, Source
from data_prep.sources.files import base_name
from data_prep.sources.labels import LabelStyle
from data_prep.sources.tables.cells import Located
from data_prep.sources.tables.columns import BYTES, Columns, is_packed
from data_prep.sources.tables.formats import ParquetTable
from data_prep.sources.tables.source import checked, listing
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.names import escape

_ROWS = 16  # images in memory at once


@dataclass(frozen=True)
class PackedTableSource(Source):
    """An image is listed as FILE/ROW, rows counted from 0, unless there is a key column."""

    files: tuple[str, ...]
    name: str
    columns: Columns
    numbered: bool
    multi: bool
    class_names: tuple[str, ...] | None
    streamed: bool = True

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        style = LabelStyle(self.numbered, self.multi)
        for file in self.files:
            table = checked(file, self.columns, ignored)
            name = escape(base_name(file))
            for chunk in table.chunks(self.columns.wanted, dict(self.columns.extra), ROWS_PER_BATCH):
                offsets = list(range(chunk.start, chunk.start + len(chunk)))
                places = [Located(f"{name}/{row}", name) for row in offsets]
                yield listing(table, chunk, places, offsets, self.columns, style)

    def stream(self, file: str) -> Iterator[tuple[int, bytes]]:
        table = ParquetTable(next(name for name in self.files if escape(base_name(name)) == file))
        try:
            yield from self._stream(table)
        except UsageError as error:
            raise WorkFailed(str(error)) from None

    def _stream(self, table: ParquetTable) -> Iterator[tuple[int, bytes]]:
        image = self.columns.image
        with table.open() as parquet:
            kind = parquet.schema_arrow.field(image).type
            if not is_packed(kind):
                raise table.refuse(f"column {escape(image)!r} holds no images any more")
            leaf = f"{image}.{BYTES}" if pa.types.is_struct(kind) else image
            row = 0
            for batch in parquet.iter_batches(_ROWS, columns=[leaf], use_threads=False):
                column = batch.column(0)
                for data in column.field(BYTES) if pa.types.is_struct(kind) else column:
                    yield row, data.as_py() or b""
                    row += 1
