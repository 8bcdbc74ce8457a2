"""Which sample goes to which shard: decided for all, before anything is encoded.

A pure function of (listing, options, estimate). Splits, order and cuts come from hashes of keys, so they depend on
neither the listing's order nor the number of workers and tasks, and a split never moves when images are added.

    plan.json            what was asked for, versions, classes, how many images each split has and in how many shards
    plan/SPLIT.parquet   a row per image, in the shuffle's order: shard i of n has the rows [i*N//n, (i+1)*N//n)
    plan/streams.parquet the same rows by the file that they lie in, for sources that can only be streamed
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.catalog.classes import Classes, to_ids
from data_prep.catalog.select import ordered
from data_prep.options import Options
from data_prep.sources.base import Place
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import atomic_file

MIN_SHARDS: Final = 8  # so that a small corpus, too, is prepared and read in parallel ...
MIN_SAMPLES: Final = 128  # ... but not in crumbs
TAR_OVERHEAD: Final = 4 * 512 + 256  # two headers, the label's block, the image's padding
ROWS_PER_GROUP: Final = 16_384  # about a shard: what has to be read to find a shard's rows
SplitName = Literal["all", "train", "val"]
ROWS: Final = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("path", pa.string()),
        pa.field("labels", pa.list_(pa.uint32())),
        pa.field("bytes", pa.int64()),
        pa.field("file", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("source", pa.uint16()),
        pa.field("reject", pa.string()),
    ]
)


@dataclass(frozen=True)
class PlannedSplit:
    """One dataset to be made: its rows in the plan, and in how many shards."""

    name: SplitName
    samples: int
    shards: int

    def shard_range(self, number: int) -> tuple[int, int]:
        """Rows [start, stop) of a shard: neighbouring ranges whose lengths differ by one at most."""
        return number * self.samples // self.shards, (number + 1) * self.samples // self.shards


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be made."""

    split: SplitName
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:06d}.tar"

    @property
    def samples(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One row of the plan. `reject`: why it is left out, where the listing knew that already."""

    key: str
    path: str
    labels: tuple[int, ...]
    source: int
    place: Place
    reject: str | None


def count_shards(samples: int, bytes_per_image: int, shard_size: int) -> int:
    """How many shards `samples` images of an expected size make: at least one image each."""
    wanted = -(-samples * (bytes_per_image + TAR_OVERHEAD) // shard_size)
    return max(1, min(samples, max(wanted, min(MIN_SHARDS, samples // MIN_SAMPLES))))


def split_conditions(val_fraction: float) -> dict[SplitName, str]:
    """SQL conditions on `split_hash`, a hash of the key alone."""
    if val_fraction == 0:
        return {"all": "true"}
    limit = int(val_fraction * 2**64)
    return {"train": f"split_hash >= {limit}", "val": f"split_hash < {limit}"}


def write_rows(
    connection: duckdb.DuckDBPyConnection, folder: Path, options: Options, classes: Classes
) -> dict[SplitName, int]:
    """Writes FOLDER/SPLIT.parquet for every split and returns how many rows each has.

    Raises:
        UsageError: a split stays empty, or a name is there twice.
    """
    names = None if classes.numbered else pa.array(classes.names, pa.string())
    counts: dict[SplitName, int] = {}
    for split, condition in split_conditions(options.val_fraction).items():
        counts[split] = 0
        last: dict[str, Any] | None = None
        with atomic_file(folder / f"{split}.parquet") as file, pq.ParquetWriter(file, ROWS, compression="zstd") as out:
            for batch in ordered(connection, condition, ROWS_PER_GROUP):
                last = _check_unique(last, batch)
                columns = {name: batch.column(name) for name in ROWS.names}
                columns["labels"] = to_ids(batch.column("labels"), names)
                out.write_table(pa.table(columns, schema=ROWS), row_group_size=ROWS_PER_GROUP)
                counts[split] += batch.num_rows
    for split, count in counts.items():
        if count == 0:
            said = f"--val-fraction {options.val_fraction}: leaves no image for {split} out of {sum(counts.values())}"
            raise UsageError(said)
    return counts


def _check_unique(last: dict[str, Any] | None, batch: pa.RecordBatch) -> dict[str, Any] | None:
    """Equal keys are neighbours in the order. Returns the batch's last row."""
    if batch.num_rows == 0:
        return last
    keys = batch.column("key")
    first = batch.slice(0, 1).to_pylist()[0]
    if last is not None and last["key"] == first["key"]:
        raise _twice(last, first)
    same = pa.compute.equal(keys.slice(1), keys.slice(0, batch.num_rows - 1))
    if batch.num_rows > 1 and pa.compute.any(same).as_py():
        at = pa.compute.index(same, True).as_py()
        raise _twice(*batch.slice(at, 2).to_pylist())
    return batch.slice(batch.num_rows - 1, 1).to_pylist()[0]


def _twice(*two: dict[str, Any]) -> UsageError:
    one, other = sorted(two, key=lambda row: (row["source"], row["path"]))
    if one["path"] != other["path"]:
        return UsageError(f"{one['path']!r} and {other['path']!r} have the same key: rename one of them")
    where = f"in SOURCE {one['source'] + 1} and in SOURCE {other['source'] + 1}"
    if one["source"] == other["source"]:
        where = f"twice in SOURCE {one['source'] + 1}"
    return UsageError(
        f"{one['path']!r} is listed {where}: rename one, or leave it out: an image's name is its identity"
    )


@lru_cache(maxsize=8)
def _opened(path: Path, _modified: int) -> tuple[pq.ParquetFile, list[int]]:
    file = pq.ParquetFile(path.open("rb"))
    starts = [0]
    for group in range(file.metadata.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return file, starts


def read_range(path: Path, start: int, stop: int) -> pa.Table:
    """Rows [start, stop) of a file of the plan, reading no more than their row groups.

    Raises:
        OSError: it cannot be read.
        WorkFailed: it is not what planning wrote.
    """
    try:
        file, starts = _opened(path, path.stat().st_mtime_ns)
        groups = [g for g in range(len(starts) - 1) if starts[g] < stop and starts[g + 1] > start]
        found = file.read_row_groups(groups, use_threads=False)
    except pa.ArrowException as error:
        raise WorkFailed(f"{path}: damaged ({str(error).splitlines()[0]}); delete --out and start again") from None
    return found.slice(start - starts[groups[0]], stop - start) if groups else found


def read_images(plan: Path, shard: PlannedShard) -> Iterator[PlannedImage]:
    """The images of a shard, in its order."""
    table = read_range(plan / f"{shard.split}.parquet", shard.start, shard.stop)
    columns = [table.column(name).to_pylist() for name in ROWS.names]
    for key, path, labels, size, file, offset, source, reject in zip(*columns, strict=True):
        yield PlannedImage(key, path, tuple(labels), source, Place(file, offset, size), reject)
