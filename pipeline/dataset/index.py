"""`shard-*.arrow`: where in its tar each sample lies. Arrow IPC, uncompressed, batches of 1,024 rows.

Row i of the index is sample i of the shard. Uncompressed columns can be used where they lie: a memory map costs
no start-up time and no memory, and a row can also be fetched from afar by a ranged read.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.dataset.blob import Blob
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import atomic_file, open_regular
from pipeline.dataset.ranged import RangedFile
from pipeline.dataset.row import Columns, IndexRow

ROWS_PER_BATCH = 1024
MAX_REMOTE_BATCHES: Final = 2  # of an index that is read by ranges, in memory: 60 kB each
_SMALL_BYTES: Final = 2**17  # an index that is not larger is read as a whole
_TAIL_BYTES: Final = 2**13  # that hold the footer, of up to 300 batches
_MAX_BATCH_BYTES: Final = 2**28
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.uint64(), nullable=False),  # of the image's first byte; its tar header is 512 before
        pa.field("size", pa.uint32(), nullable=False),
        pa.field("labels", pa.list_(pa.uint32()), nullable=False),
        pa.field("width", pa.uint32(), nullable=False),  # as decoded and turned upright
        pa.field("height", pa.uint32(), nullable=False),
    ]
)


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Writes a shard's index, atomically; the same rows give the same bytes."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    write_table(path, pa.table(columns, schema=SCHEMA))


def write_table(path: Path, table: pa.Table) -> None:
    """The same of a table of SCHEMA, as `ShardIndex.take` gives it."""
    with atomic_file(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=ROWS_PER_BATCH)


class _Batch:
    """1,024 rows, taken from where they lie: a value of Arrow's own takes a microsecond to make, a row has six."""

    def __init__(self, columns: pa.RecordBatch) -> None:
        """Raises ArrowInvalid where a value is missing."""
        self.columns = columns
        keys, offsets, sizes, labels, widths, heights = columns.columns
        if any(column.null_count for column in (*columns.columns, labels.values)):
            raise pa.ArrowInvalid("a value is missing")
        self._texts, self._text_edges = _words(keys.buffers()[2], "B"), _words(keys.buffers()[1], "i")
        self._labels, self._label_edges = _words(labels.values.buffers()[1], "I"), _words(labels.buffers()[1], "i")
        numbers = zip((offsets, sizes, widths, heights), "QIII", strict=True)
        self._numbers = [_words(column.buffers()[1], kind) for column, kind in numbers]

    def take(self, places: Sequence[int]) -> Columns:
        """The rows at these places."""
        texts, text_edges, labels, label_edges = self._texts, self._text_edges, self._labels, self._label_edges
        keys = [str(texts[text_edges[n] : text_edges[n + 1]], "utf-8") for n in places]
        of_each = [tuple(labels[label_edges[n] : label_edges[n + 1]]) for n in places]
        offsets, sizes, widths, heights = ([column[n] for n in places] for column in self._numbers)
        return Columns(keys, offsets, sizes, of_each, widths, heights)


def _words(buffer: pa.Buffer | None, kind: str) -> memoryview:
    """A column of a batch as it was read, which begins where its buffer does; `kind` as of struct."""
    return memoryview(b"" if buffer is None else buffer).cast("B").cast(kind)


class ShardIndex:
    """An index, memory-mapped or read by ranges. Columns are read in place; nothing is loaded up front.

    Of one that lies elsewhere the footer and two batches are in memory. Anything that is asked of a damaged one raises
    WorkFailed; of one that cannot be had, Unreadable. Safe to use from several threads at once.
    """

    def __init__(self, source: Path | Blob, samples: int | None = None, where: str | None = None) -> None:
        """`samples`: how many it has to have. `where`: what it is called in messages.

        Raises:
            WorkFailed: `source` is missing, no index, or one of another number of samples.
            Unreadable: the blob cannot be read.
        """
        self._where = where or (str(source) if isinstance(source, Path) else source.name)
        self._samples, self._remote = samples, not isinstance(source, Path)
        self._batches: OrderedDict[int, _Batch] = OrderedDict()
        self._lock = threading.Lock()
        try:
            if isinstance(source, Path):
                open_regular(source).close()  # memory_map would wait for a pipe
                file = pa.memory_map(str(source))
            else:
                file = pa.PythonFile(_BlobFile(source), "r")
            self._reader = pa.ipc.open_file(file)
            if self._reader.schema != SCHEMA:
                raise pa.ArrowInvalid(f"columns {self._reader.schema.names}")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._unusable(error) from None
        if samples is not None and self._reader.num_record_batches != -(-samples // ROWS_PER_BATCH):
            raise self._miscounted(len(self))
        if samples is not None and not self._remote and len(self) != samples:
            raise self._miscounted(len(self))

    def __len__(self) -> int:
        batches = self._reader.num_record_batches
        if batches == 0:
            return 0
        return (batches - 1) * ROWS_PER_BATCH + self._columns(batches - 1).num_rows

    def row(self, position: int) -> IndexRow:
        """The sample at `position` in this shard."""
        return self.rows([position])[0]

    def rows(self, positions: Sequence[int]) -> list[IndexRow]:
        """The samples at these positions."""
        return self.columns(positions).rows

    def columns(self, positions: Sequence[int]) -> Columns:
        """The same, field by field."""
        columns = Columns([], [], [], [], [], [])
        for number, some in groupby(positions, ROWS_PER_BATCH.__rfloordiv__):
            taken = self._batch(number).take([position % ROWS_PER_BATCH for position in some])
            for column, more in zip(columns, taken, strict=True):
                column += more
        return columns

    def key(self, position: int) -> str:
        """The key alone."""
        return self._columns(position // ROWS_PER_BATCH)["key"][position % ROWS_PER_BATCH].as_py()

    def keys(self) -> list[str]:
        """All keys, in order: for audits, not for the hot path."""
        return [key for b in range(self._reader.num_record_batches) for key in self._columns(b)["key"].to_pylist()]

    def take(self, positions: np.ndarray) -> pa.Table:
        """The rows at these positions, as columns: for views, which copy many."""
        batches = [self._columns(number) for number in range(self._reader.num_record_batches)]
        return pa.Table.from_batches(batches, SCHEMA).combine_chunks().take(pa.array(positions, pa.int64()))

    def find(self, key: str) -> int | None:
        """Position of `key` in this shard, or None."""
        import pyarrow.compute as pc  # 4 MB, which no loader needs

        for number in range(self._reader.num_record_batches):
            found = pc.index(self._columns(number)["key"], key).as_py()
            if found >= 0:
                return number * ROWS_PER_BATCH + found
        return None

    def _columns(self, number: int) -> pa.RecordBatch:
        return self._batch(number).columns

    def _batch(self, number: int) -> _Batch:
        found = self._batches.get(number)
        if found is not None:
            return found
        with self._lock:
            try:
                columns = self._reader.get_batch(number)
                columns.validate(full=True)  # offsets inside their buffers, text that is UTF-8
                batch = _Batch(columns)
            except (OSError, ValueError, TypeError, pa.ArrowException) as error:
                raise self._unusable(error) from None
            if self._samples is not None:
                before = number * ROWS_PER_BATCH
                if columns.num_rows != min(ROWS_PER_BATCH, self._samples - before):
                    raise self._miscounted(before + columns.num_rows)
            self._batches[number] = batch
            if self._remote and len(self._batches) > MAX_REMOTE_BATCHES:
                self._batches.popitem(last=False)
            return batch

    def _miscounted(self, samples: int) -> WorkFailed:
        message = f"{self._where}: {samples} samples, the manifest says {self._samples}"
        return WorkFailed(f"{message}; see: vitstream verify DATASET", cause="data", resumable=False)

    def _unusable(self, error: Exception) -> WorkFailed:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"{self._where}: no readable index ({reason}); see: vitstream verify DATASET"
        return WorkFailed(message, cause="data", resumable=False)


class _BlobFile(RangedFile):
    """A blob as Arrow wants it. What Arrow reads first, the footer, comes with one request, as does each batch."""

    def __init__(self, blob: Blob) -> None:
        super().__init__(blob.size())
        self._blob = blob
        self._tail_at = max(0, self.size - (self.size if self.size <= _SMALL_BYTES else _TAIL_BYTES))
        self._tail = blob.read(self._tail_at, self.size - self._tail_at)

    def read(self, size: int = -1) -> bytes:
        size = max(0, min(size if size >= 0 else self.size, self.size - self.at))
        if size > _MAX_BATCH_BYTES:
            raise pa.ArrowInvalid(f"a part of {size:,} bytes")
        if self.at >= self._tail_at:
            data = self._tail[self.at - self._tail_at : self.at - self._tail_at + size]
        else:
            data = self._blob.read(self.at, size)
        self.at += len(data)
        return data
