"""`shard-*.arrow`: where in its tar each sample lies. Arrow IPC, uncompressed, batches of 1,024 rows.

Row i of the index is sample i of the shard. Uncompressed columns can be used where they lie: a memory map costs
no start-up time and no memory, and a row can also be fetched from afar by a ranged read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import atomic_file, open_regular

ROWS_PER_BATCH = 1024
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


@dataclass(frozen=True)
class IndexRow:
    """One sample of a shard."""

    key: str
    offset: int
    size: int
    labels: tuple[int, ...]
    width: int
    height: int


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Writes a shard's index, atomically; the same rows give the same bytes."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    write_table(path, pa.table(columns, schema=SCHEMA))


def write_table(path: Path, table: pa.Table) -> None:
    """The same of a table of SCHEMA, as `ShardIndex.take` gives it."""
    with atomic_file(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=ROWS_PER_BATCH)


class ShardIndex:
    """A memory-mapped index. Columns are read in place; nothing is loaded up front.

    Anything that is asked of a damaged one raises WorkFailed.
    """

    def __init__(self, path: Path) -> None:
        """Raises WorkFailed where `path` is missing or no index."""
        self._path = path
        self._batches: dict[int, pa.RecordBatch] = {}
        try:
            open_regular(path).close()  # memory_map would wait for a pipe
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if self._reader.schema != SCHEMA:
                raise pa.ArrowInvalid(f"columns {self._reader.schema.names}")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._unusable(error) from None

    def __len__(self) -> int:
        batches = self._reader.num_record_batches
        if batches == 0:
            return 0
        return (batches - 1) * ROWS_PER_BATCH + self._batch(batches - 1).num_rows

    def row(self, position: int) -> IndexRow:
        """The sample at `position` in this shard."""
        batch = self._batch(position // ROWS_PER_BATCH)
        values = [column[position % ROWS_PER_BATCH].as_py() for column in batch.columns]
        key, offset, size, labels, width, height = values
        return IndexRow(key, offset, size, tuple(labels), width, height)

    def keys(self) -> list[str]:
        """All keys, in order: for audits, not for the hot path."""
        return [key for b in range(self._reader.num_record_batches) for key in self._batch(b)["key"].to_pylist()]

    def take(self, positions: np.ndarray) -> pa.Table:
        """The rows at these positions, as columns: for views, which copy many."""
        batches = [self._batch(number) for number in range(self._reader.num_record_batches)]
        return pa.Table.from_batches(batches, SCHEMA).combine_chunks().take(pa.array(positions, pa.int64()))

    def find(self, key: str) -> int | None:
        """Position of `key` in this shard, or None."""
        for number in range(self._reader.num_record_batches):
            found = pc.index(self._batch(number)["key"], key).as_py()
            if found >= 0:
                return number * ROWS_PER_BATCH + found
        return None

    def _batch(self, number: int) -> pa.RecordBatch:
        if number not in self._batches:
            try:
                batch = self._reader.get_batch(number)
                batch.validate(full=True)  # offsets inside their buffers, text that is UTF-8
            except (OSError, ValueError, pa.ArrowException) as error:
                raise self._unusable(error) from None
            self._batches[number] = batch
        return self._batches[number]

    def _unusable(self, error: Exception) -> WorkFailed:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"{self._path}: no readable index ({reason}); see: vitstream verify DATASET"
        return WorkFailed(message, cause="data", resumable=False)
