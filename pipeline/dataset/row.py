"""A row of a shard's index (index.py), without what it takes to read one: a rank does without the 25 MB of pyarrow."""

from typing import NamedTuple


class IndexRow(NamedTuple):
    """One sample of a shard. A tuple, which is made three times as fast as a frozen dataclass."""

    key: str
    offset: int
    size: int
    labels: tuple[int, ...]
    width: int
    height: int


class Columns(NamedTuple):
    """Some rows of an index, field by field, where a row each would take longer than what is done with it."""

    keys: list[str]
    offsets: list[int]
    sizes: list[int]
    labels: list[tuple[int, ...]]
    widths: list[int]
    heights: list[int]

    @property
    def rows(self) -> list[IndexRow]:
        return list(map(IndexRow, *self))
