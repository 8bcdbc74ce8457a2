"""The catalogue, samples.parquet, row i of which is sample i of the dataset; and rejects.jsonl."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.common.stored import MAKE_AGAIN
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import atomic_file

CATALOGUE_NAME = "samples.parquet"
REJECTS_NAME = "rejects.jsonl"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # relative to its source, escaped as names.py says
        pa.field("labels", pa.list_(pa.field("element", pa.uint32())), nullable=False),
        pa.field("size", pa.uint32(), nullable=False),  # bytes of the image in the tar
        pa.field("width", pa.uint32(), nullable=False),
        pa.field("height", pa.uint32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("hash", pa.string(), nullable=False),  # xxh3-64 of the image in the tar
        pa.field("shard", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class CatalogueRow:
    """One sample, for SQL."""

    key: str
    path: str
    labels: tuple[int, ...]
    size: int
    width: int
    height: int
    split: str
    hash: str
    shard: str


@dataclass(frozen=True)
class Reject:
    """One listed image that was left out, and why."""

    source: str  # its escaped path
    key: str
    reason: str


def write_rows(path: Path, rows: Sequence[CatalogueRow]) -> None:
    """One shard's part of the catalogue, atomically."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    with atomic_file(path) as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file)


def join_rows(path: Path, parts: Iterable[Path]) -> None:
    """The whole catalogue from its parts in order, a row group per shard, one part in memory at a time.

    Raises:
        OSError: a part cannot be read, or the catalogue cannot be written.
        WorkFailed: a part is not what write_rows wrote.
    """
    with atomic_file(path) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for part in parts:
            try:
                with part.open("rb") as opened:  # not by its name, which Arrow takes only as UTF-8
                    table = pq.read_table(opened).cast(SCHEMA)
            except (pa.ArrowException, ValueError):
                raise WorkFailed(f"{part}: damaged; {MAKE_AGAIN}") from None
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """rejects.jsonl, sorted by source; empty where nothing was left out."""
    lines = [json.dumps(asdict(reject), ensure_ascii=False) for reject in sorted(rejects, key=lambda r: r.source)]
    with atomic_file(path) as file:
        file.write("".join(line + "\n" for line in lines).encode())
