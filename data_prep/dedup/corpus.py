"""A dataset as de-duplication reads it: images by number, 0 for the first of the first shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.images import MAX_PIXELS
from pipeline.dataset.index import SCHEMA, ShardIndex
from pipeline.dataset.manifest import Manifest, Shard
from pipeline.dataset.names import escape


@dataclass(frozen=True)
class Corpus:
    """A dataset, and as what it is called: as the user wrote it."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """One line of valid UTF-8."""
        return escape(str(self.folder))

    @property
    def max_pixels(self) -> int:
        """Of an image that is decoded: what the dataset was made with, if that is more than usual."""
        asked = self.manifest.asked.get("max_pixels")
        return max(MAX_PIXELS, asked if isinstance(asked, int) else 0)

    @cached_property
    def classes(self) -> pa.Array:
        """Their names."""
        return pa.array(self.manifest.classes, pa.string())

    def rows(self, images: np.ndarray) -> Iterator[tuple[Shard, pa.Table]]:
        """For the shards of these images, int64 [n] ascending: what the index says of them. Raises WorkFailed."""
        starts = self.manifest.starts
        bounds = np.searchsorted(images, starts)
        for number, shard in enumerate(self.manifest.shards):
            mine = images[bounds[number] : bounds[number + 1]]
            if len(mine):
                yield shard, open_index(self.folder, shard).take(mine - starts[number])

    def keys_and_labels(self, images: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """string [n] and list<string> [n]: keys and class names of these images, int64 [n], in any order.

        Raises:
            WorkFailed: an index is damaged.
        """
        different, place = np.unique(images, return_inverse=True)
        empty = SCHEMA.empty_table()
        rows = pa.concat_tables([empty, *(table for _, table in self.rows(different))]).combine_chunks()
        rows = rows.take(pa.array(place)).combine_chunks()
        keys, labels = (pa.concat_arrays(rows[name].chunks or [empty[name].chunk(0)]) for name in ("key", "labels"))
        try:
            names = self.classes.take(labels.flatten())
        except pa.ArrowIndexError:
            message = f"{self.folder}: an index has labels that are no classes; see: vitstream verify {self.folder}"
            raise WorkFailed(message) from None
        return keys, pa.ListArray.from_arrays(labels.offsets, names)


def open_index(folder: Path, shard: Shard) -> ShardIndex:
    """Where the shard's images lie. Raises WorkFailed where it is not what the manifest says."""
    index = ShardIndex(folder / "shards" / shard.index_name)
    if len(index) != shard.samples:
        wrong = f"{shard.index_name} lists {len(index):,} images, the manifest {shard.samples:,}"
        raise WorkFailed(f"{folder}: {wrong}; see: vitstream verify {folder}")
    return index
