"""Sample id -> bytes: one ranged read of the tar through the index, and a check that it is the right member.

A read covers the member's 512-byte tar header and the image behind it. The key is taken from that header, not
from the index: the ledger adds up what was really read.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
        """The sample, or a hole that says why not. Raises WorkFailed where a shard's index cannot be read."""
        number, row = self.locate(sample_id)
        try:
            block = os.pread(self._file(number), TAR_BLOCK + row.size, row.offset - TAR_BLOCK)
        except OSError as error:
            return self.hole(sample_id, f"cannot read: {error.strerror}")
        if len(block) < TAR_BLOCK + row.size:
            return self.hole(sample_id, f"the shard ends {TAR_BLOCK + row.size - len(block)} bytes too early")
        key, size = _parse_header(block)
        if key != row.key or size != row.size:
            return self.hole(sample_id, "the shard holds another member here than its index says")
        return Sample(key, key_hash(key), block[TAR_BLOCK:], row)

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
        index = ShardIndex(self._shards / self.manifest.shards[number].index_name)
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
    """(key, size) of a USTAR header (POSIX 1003.1-1988): the name up to its first dot, and the octal size."""
    if block[257:262] != b"ustar":
        return "", -1
    name = block[:100].split(b"\0", 1)[0].rpartition(b"/")[2]
    try:
        return name.split(b".", 1)[0].decode(), int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return "", -1
