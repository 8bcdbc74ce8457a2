"""A vitstream DATASET as SOURCE: its samples with their keys, labels and classes, as its indexes list them.

So it may be re-made at another size, split otherwise or mixed with others, and a view counts as what it shows.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.sources.base import Place, Source
from data_prep.sources.files import OPEN_FILES
from pipeline.dataset.containers import ShardFile, Unreadable, open_shard
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.index import ROWS_PER_BATCH, ShardIndex
from pipeline.dataset.manifest import Container, read_manifest
from pipeline.dataset.names import escape, unescape


@dataclass(frozen=True)
class DatasetSource(Source):
    """`root` is the dataset's folder. An image's `offset` is its row in its shard's index."""

    root: str
    name: str
    container: Container
    multi: bool
    class_names: tuple[str, ...] | None
    numbered: bool = True

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        for shard in read_manifest(Path(self.root)).shards:
            index = self._index(shard.index_name)
            for start in range(0, len(index), ROWS_PER_BATCH):
                rows = index.take(np.arange(start, min(start + ROWS_PER_BATCH, len(index))))
                yield _batch(rows, shard.name, start)

    def read(self, place: Place) -> bytes:
        name = unescape(place.file)
        shards = Path(self.root) / "shards"
        try:
            index = _cached_index(shards / Path(name).with_suffix(".arrow"))
            return _cached_shard(self.container, shards / name).read(index.row(place.offset)).data
        except (Unreadable, WorkFailed, IndexError) as error:
            raise ImageError(str(error)) from None
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from None

    def _index(self, name: str) -> ShardIndex:
        try:
            return ShardIndex(Path(self.root) / "shards" / name)
        except WorkFailed as error:
            raise UsageError(str(error)) from None


def open_dataset(folder: Path) -> DatasetSource:
    """Raises UsageError where the manifest is damaged."""
    manifest = read_manifest(folder)
    multi = manifest.labels == "multi"
    return DatasetSource(str(folder), escape(folder.name), manifest.container, multi, manifest.classes)


def _batch(rows: pa.Table, shard: str, start: int) -> pa.RecordBatch:
    count = rows.num_rows
    file = escape(shard)
    columns = {
        "path": pa.array([f"{file}/{key}" for key in rows.column("key").to_pylist()], pa.string()),
        "labels": rows.column("labels").cast(pa.list_(pa.string())).combine_chunks(),
        "bytes": rows.column("size").cast(pa.int64()).combine_chunks(),
        "file": pa.array([file] * count, pa.string()),
        "offset": pa.array(range(start, start + count), pa.int64()),
        "width": rows.column("width").combine_chunks(),
        "height": rows.column("height").combine_chunks(),
    }
    return pa.RecordBatch.from_pydict(columns)


@lru_cache(maxsize=OPEN_FILES)
def _cached_index(path: Path) -> ShardIndex:
    return ShardIndex(path)


@lru_cache(maxsize=OPEN_FILES)
def _cached_shard(container: Container, path: Path) -> ShardFile:
    shard = open_shard(container, path)
    weakref.finalize(shard, shard.blob.close)  # when it falls out of the cache
    return shard
