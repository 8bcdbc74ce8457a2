"""Rows of a listing, gathered into batches."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from data_prep.sources.base import COLUMNS, ROWS_PER_BATCH

SCHEMA = pa.schema([*COLUMNS, pa.field("reject", pa.string())])


class Row(NamedTuple):
    """One image; the fields are base.COLUMNS'."""

    path: str
    labels: list[str]
    bytes: int
    file: str
    offset: int
    reject: str | None = None


def batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """The rows, ROWS_PER_BATCH at a time."""
    waiting: list[Row] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == ROWS_PER_BATCH:
            yield to_batch(waiting)
            waiting = []
    if waiting:
        yield to_batch(waiting)


def to_batch(rows: list[Row]) -> pa.RecordBatch:
    """All of them in one batch."""
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)],
        schema=SCHEMA,
    )
