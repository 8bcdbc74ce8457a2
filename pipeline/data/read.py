"""Sample id -> bytes: one ranged read of the shard through the index, and a check that it is the right sample.

The key is taken from the shard, not from the index, which only says where to look: the ledger adds up what was really
read. So is the label, in shards of our own; containers.py says how each kind of shard is read.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.containers import ShardFile, Unreadable, open_shard
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import IndexRow, ShardIndex
from pipeline.dataset.keys import key_hash
from pipeline.dataset.manifest import Manifest

MAX_OPEN_SHARDS = 256  # two file descriptors each, of the usual 1,024


@dataclass(frozen=True)
class Sample:
    """A sample's bytes as they lie in its shard, and the hash of the key that lay before them."""

    key: str
    key_hash: int
    data: bytes
    label: int
    row: IndexRow


@dataclass(frozen=True)
class Hole:
    """A sample that could not be used: it keeps its slot, with weight 0."""

    key: str
    key_hash: int
    shard: str
    offset: int
    cause: str


class DatasetReader:
    """Reads samples of one dataset. One per process: file handles and memory maps are opened on first use."""

    def __init__(self, dataset: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._shards = dataset / "shards"
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        self._files: OrderedDict[int, ShardFile] = OrderedDict()

    def read(self, sample_id: int) -> Sample | Hole:
        """The sample, or a hole that says why not.

        Raises:
            WorkFailed: a shard's index cannot be used, or a label is beyond the dataset's classes.
        """
        number, row = self.locate(sample_id)
        if row.offset + row.size > self.manifest.shards[number].bytes:
            return self.hole(sample_id, "its index points beyond the shard's end")
        try:
            packed = self._file(number).read(row)
        except Unreadable as unreadable:
            return self.hole(sample_id, str(unreadable))
        except OSError as error:
            return self.hole(sample_id, f"cannot read: {error.strerror}")
        if len(packed.labels) != 1:
            return self.hole(sample_id, f"has {len(packed.labels)} labels; one is needed")
        (label,) = packed.labels
        if label >= len(self.manifest.classes):
            say = f"{self.manifest.shards[number].name}: sample {packed.key} is of class {label}, the dataset has"
            raise WorkFailed(f"{say} {len(self.manifest.classes)}; see: vitstream verify DATASET", "data", False)
        return Sample(packed.key, key_hash(packed.key), packed.data, label, row)

    def locate(self, sample_id: int) -> tuple[int, IndexRow]:
        """(number of the shard, row of its index)."""
        number = int(np.searchsorted(self.manifest.starts, sample_id, side="right")) - 1
        return number, self.index(number).row(sample_id - int(self.manifest.starts[number]))

    def hole(self, sample_id: int, cause: str) -> Hole:
        """The hole that takes this sample's place."""
        number, row = self.locate(sample_id)
        return Hole(row.key, key_hash(row.key), self.manifest.shards[number].name, row.offset, cause)

    def index(self, number: int) -> ShardIndex:
        """The index of a shard, opened on first use."""
        if number in self._indexes:
            self._indexes.move_to_end(number)
            return self._indexes[number]
        shard = self.manifest.shards[number]
        index = ShardIndex(self._shards / shard.index_name)
        if len(index) != shard.samples:
            message = f"{self._shards / shard.index_name}: {len(index)} samples, the manifest says {shard.samples}"
            raise WorkFailed(f"{message}; see: vitstream verify DATASET", cause="data", resumable=False)
        self._indexes[number] = index
        if len(self._indexes) > MAX_OPEN_SHARDS:
            self._indexes.popitem(last=False)
        return index

    def _file(self, number: int) -> ShardFile:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        file = open_shard(self.manifest.container, self._shards / self.manifest.shards[number].name)
        self._files[number] = file
        if len(self._files) > MAX_OPEN_SHARDS:
            self._files.popitem(last=False)[1].close()
        return file
