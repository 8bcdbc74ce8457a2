"""What reading gives: a sample, or the hole that takes its place."""

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.dataset.blob import Bytes
from pipeline.dataset.keys import key_hash
from pipeline.dataset.row import IndexRow


class Sample(NamedTuple):
    """A sample's bytes as they lie in its shard, and the hash of the key that lay before them."""

    key: str
    key_hash: int
    data: Bytes
    labels: tuple[int, ...]  # one, but in a dataset of several per image
    width: int  # 0 where the index does not know it
    height: int

    @property
    def label(self) -> int:
        """Of a dataset of one label per image."""
        (label,) = self.labels
        return label


@dataclass(frozen=True)
class Hole:
    """A sample that could not be used: it keeps its slot, with weight 0."""

    id: int
    key: str
    key_hash: int
    shard: str
    offset: int
    cause: str


def hole_of(sample_id: int, row: IndexRow, shard: str, cause: str) -> Hole:
    """The hole in place of a sample of which the index is known."""
    return Hole(sample_id, row.key, key_hash(row.key) if row.key else 0, shard, row.offset, cause)
