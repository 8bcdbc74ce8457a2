"""The same numbers from the shards' indexes, one shard in memory at a time: views and the like have no catalogue."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.card.catalogue import damaged
from data_prep.card.tally import Tally
from data_prep.common.workers import Advance
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.manifest import Manifest


def tally(dataset: Path, manifest: Manifest, advance: Advance) -> Tally:
    """Counts the rows of all indexes. Raises WorkFailed where one is damaged or does not fit the manifest."""
    counts = Tally(np.zeros(len(manifest.classes), np.int64))
    for shard in manifest.shards:
        index = ShardIndex(dataset / "shards" / shard.index_name)
        if len(index) != shard.samples:
            raise damaged(dataset, f"{shard.index_name} has {len(index):,} rows, its shard {shard.samples:,} samples")
        try:
            counts.add(_count(index.take(np.arange(shard.samples)), len(manifest.classes)))
        except ValueError as error:
            raise damaged(dataset, f"{shard.index_name}: {error}") from None
        advance(shard.samples)
    return counts


def _count(table: pa.Table, classes: int) -> Tally:
    if any(column.null_count for column in table.columns):
        raise ValueError("an empty field")
    width, height, size = (table[name].to_numpy().astype(np.int64) for name in ("width", "height", "size"))
    if len(width) and min(width.min(), height.min()) < 1:
        raise ValueError("an image without pixels")
    lists = table["labels"].combine_chunks()
    labels = pc.list_flatten(lists).to_numpy().astype(np.int64)
    if len(labels) and labels.max() >= classes:
        raise ValueError(f"label {labels.max()} of {classes:,} classes")
    images = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    different = np.unique(images * max(1, classes) + labels)  # a label that an image has twice counts once
    per_image = np.bincount(np.bincount(different // max(1, classes), minlength=len(width)))
    counts = Tally(
        np.bincount(different % max(1, classes), minlength=classes)[:classes],
        len(width),
        {number: count for number, count in enumerate(per_image.tolist()) if count},
        landscape=int((width > height).sum()),
        square=int((width == height).sum()),
        portrait=int((width < height).sum()),
    )
    counts.widths.add_values(width)
    counts.heights.add_values(height)
    counts.aspects.add_values(1000 * width // height)
    counts.sizes.add_values(size)
    return counts
