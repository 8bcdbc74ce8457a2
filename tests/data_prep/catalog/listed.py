"""Listings by hand, planned as `vitstream shard` plans them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from data_prep.catalog.classes import Classes, resolve
from data_prep.catalog.listing import write_listing
from data_prep.catalog.plan import PlannedImage, PlannedShard, read_images, write_rows
from data_prep.catalog.select import catalogue, pick
from data_prep.options import Options
from data_prep.sources.base import COLUMNS, Source


@dataclass(frozen=True)
class ListSource(Source):
    """A source whose listing is given: rows of path, labels, bytes and any further columns."""

    rows: tuple[dict[str, Any], ...]
    name: str = "listed"
    numbered: bool = False
    multi: bool = False
    class_names: tuple[str, ...] | None = None
    untyped: bool = False
    rows_per_batch: int = 7  # so that seams between batches are tested, too

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        names = dict.fromkeys(name for row in self.rows for name in row)
        extra = {
            name: pa.array([row.get(name) for row in self.rows]).type for name in names if name not in COLUMNS.names
        }
        schema = pa.schema([*COLUMNS, *extra.items()])
        for start in range(0, len(self.rows), self.rows_per_batch):
            rows = [{"file": row["path"], "offset": 0} | row for row in self.rows[start : start + self.rows_per_batch]]
            yield pa.RecordBatch.from_pylist(rows, schema=schema)


def rows(numbers: Sequence[int], **more: Any) -> tuple[dict[str, Any], ...]:
    """Images a/N.jpg of class a and 1,000 bytes each."""
    return tuple({"path": f"a/{n}.jpg", "labels": ["a"], "bytes": 1000} | more for n in numbers)


def planned(
    *sources: Source, keep: Path | None = None, classes: tuple[str, ...] | None = None, **options: Any
) -> tuple[dict[str, list[PlannedImage]], Classes]:
    """The images of each split, in their order, and the classes."""
    asked = Options(**options)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan").mkdir()
        write_listing(sources, folder, asked.seed)
        untyped = [number for number, source in enumerate(sources) if source.untyped]
        with catalogue(folder, untyped) as connection:
            pick(connection, asked, keep)
            found = resolve(connection, sources, classes)
            counts = write_rows(connection, folder / "plan", asked, found)
        return {
            n: list(read_images(folder / "plan", PlannedShard(n, 0, 0, count))) for n, count in counts.items()
        }, found


def paths(images: list[PlannedImage]) -> list[str]:
    """Their paths."""
    return [image.path for image in images]
