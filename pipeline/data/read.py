"""Sample id -> bytes: one ranged read of the tar through the index, and a check that it is the right member.

A read covers the image's 512-byte tar header, the image, and the label's member behind it. Key and label are taken from
the tar, not from the index, which only says where to look: the ledger adds up what was really read.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import IndexRow, ShardIndex
from pipeline.dataset.keys import key_hash
from pipeline.dataset.manifest import Manifest

TAR_BLOCK = 512
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
        self._files: OrderedDict[int, int] = OrderedDict()

    def read(self, sample_id: int) -> Sample | Hole:
        """The sample, or a hole that says why not.

        Raises:
            WorkFailed: a shard's index cannot be used, or a label is beyond the dataset's classes.
        """
        number, row = self.locate(sample_id)
        label_at = TAR_BLOCK + -(-row.size // TAR_BLOCK) * TAR_BLOCK
        length = label_at + 2 * TAR_BLOCK
        if row.offset + row.size > self.manifest.shards[number].bytes:
            return self.hole(sample_id, "its index points beyond the shard's end")
        try:
            block = os.pread(self._file(number), length, row.offset - TAR_BLOCK)
        except OSError as error:
            return self.hole(sample_id, f"cannot read: {error.strerror}")
        if len(block) < length:
            return self.hole(sample_id, f"the shard ends {length - len(block)} bytes too early")
        name, size = _parse_header(block[:TAR_BLOCK])
        key = name.partition(".")[0]
        if key != row.key or size != row.size:
            return self.hole(sample_id, "the shard holds another member here than its index says")
        label = _parse_label(block[label_at:], key)
        if (label,) != row.labels:
            return self.hole(sample_id, f"the shard says label {label}, its index {row.labels}")
        if label >= len(self.manifest.classes):
            say = f"{self.manifest.shards[number].name}: sample {key} is of class {label}, the dataset has"
            raise WorkFailed(f"{say} {len(self.manifest.classes)}; see: vitstream verify DATASET", "data", False)
        return Sample(key, key_hash(key), block[TAR_BLOCK : TAR_BLOCK + size], label, row)

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

    def _file(self, number: int) -> int:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        fd = os.open(self._shards / self.manifest.shards[number].name, os.O_RDONLY | os.O_CLOEXEC)
        self._files[number] = fd
        if len(self._files) > MAX_OPEN_SHARDS:
            os.close(self._files.popitem(last=False)[1])
        return fd


def _parse_header(block: bytes) -> tuple[str, int]:
    """(member's name without folders, size) of a USTAR header (POSIX 1003.1-1988); ("", -1) if it is none."""
    if block[257:262] != b"ustar":
        return "", -1
    try:
        name = block[:100].split(b"\0", 1)[0].decode()
        return name.rpartition("/")[2], int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return "", -1


def _parse_label(blocks: bytes, key: str) -> int | None:
    """The number in KEY.cls, whose header and content these two tar blocks are; None if they are not."""
    name, size = _parse_header(blocks[:TAR_BLOCK])
    digits = blocks[TAR_BLOCK : TAR_BLOCK + max(0, size)]
    return int(digits) if name == f"{key}.cls" and digits.isdigit() else None
