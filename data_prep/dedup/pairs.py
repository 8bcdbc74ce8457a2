"""keep.parquet and pairs.parquet: what stays, and why the rest goes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.corpus import Corpus, open_index
from data_prep.dedup.select import KINDS, Matches
from pipeline.dataset.files import atomic_file

KEEP_NAME: Final = "keep.parquet"
PAIRS_NAME: Final = "pairs.parquet"
ROWS: Final = 1 << 17  # of pairs, in memory at a time
KEEP_SCHEMA: Final = pa.schema([pa.field("key", pa.string(), nullable=False)])
PAIRS_SCHEMA: Final = pa.schema(
    [
        pa.field("dropped", pa.string(), nullable=False),  # key of the image that goes
        pa.field("kept", pa.string(), nullable=False),  # of the one that it duplicates
        pa.field("set", pa.string(), nullable=False),  # the evaluation set that this is of; "" for the corpus itself
        pa.field("kind", pa.string(), nullable=False),
        pa.field("distance", pa.uint8(), nullable=False),  # bits of the perceptual hash; 0 for equal pixels
        pa.field("dropped_labels", pa.list_(pa.string()), nullable=False),
        pa.field("kept_labels", pa.list_(pa.string()), nullable=False),
        pa.field("conflict", pa.bool_()),  # whether the labels differ; null where the sets have other classes
    ]
)


@dataclass(frozen=True)
class Found:
    """The matches of the corpus with one set, `other`: with itself, where `name` is ""."""

    name: str
    corpus: Corpus
    other: Corpus
    matches: Matches

    @property
    def comparable(self) -> bool:
        """Whether a class name means the same in both."""
        return self.corpus.manifest.classes == self.other.manifest.classes

    def tables(self) -> Iterator[pa.Table]:
        """Tables of PAIRS_SCHEMA, in the order of the images that go. Raises WorkFailed."""
        for start in range(0, len(self.matches.dropped), ROWS):
            yield self.table(np.arange(start, min(start + ROWS, len(self.matches.dropped))))

    def table(self, rows: np.ndarray) -> pa.Table:
        """Those of these rows of the matches. Raises WorkFailed."""
        keys, labels = self.corpus.keys_and_labels(self.matches.dropped[rows])
        other_keys, other_labels = self.other.keys_and_labels(self.matches.other[rows])
        conflict = [None] * len(rows)
        if self.comparable:
            both = zip(labels.to_pylist(), other_labels.to_pylist(), strict=True)
            conflict = [set(mine) != set(theirs) for mine, theirs in both]
        columns = [
            keys,
            other_keys,
            pa.array([self.name] * len(rows), pa.string()),
            pa.array(KINDS).take(pa.array(self.matches.kind[rows])),
            pa.array(self.matches.distance[rows]),
            labels,
            other_labels,
            pa.array(conflict, pa.bool_()),
        ]
        return pa.Table.from_arrays(columns, schema=PAIRS_SCHEMA)


def write_keep(path: Path, corpus: Corpus, keep: np.ndarray) -> None:
    """The keys that stay, in the dataset's order, a row group per shard. Raises WorkFailed, OSError."""
    with atomic_file(path) as file, pq.ParquetWriter(file, KEEP_SCHEMA) as writer:
        for number, shard in enumerate(corpus.manifest.shards):
            start = int(corpus.manifest.starts[number])
            keys = pa.array(open_index(corpus.folder, shard).keys(), pa.string())
            mask = pa.array(keep[start : start + shard.samples])
            writer.write_table(pa.table([keys.filter(mask)], schema=KEEP_SCHEMA))


def write_pairs(path: Path, found: list[Found]) -> list[int]:
    """All pairs. Returns, of each set, how many have conflicting labels. Raises WorkFailed, OSError."""
    conflicts = [0] * len(found)
    with atomic_file(path) as file, pq.ParquetWriter(file, PAIRS_SCHEMA) as writer:
        for number, one in enumerate(found):
            for table in one.tables():
                conflicts[number] += table["conflict"].to_pylist().count(True)
                writer.write_table(table)
    return conflicts
