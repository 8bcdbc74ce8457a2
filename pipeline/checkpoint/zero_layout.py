"""Where a parameter's elements lie in DeepSpeed's flat partitions. Pure arithmetic. Torch-free.

Stages 1 and 2 lay a parameter group out as one flat buffer, each parameter followed by its alignment padding, and cut
the buffer into equal partitions, one per rank. Stage 3 cuts every parameter by itself into one share per rank, the last
ones short or empty, and lays a rank's shares out one after the other, each padded to the full share.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Elements [start, stop) of a flattened parameter, which begin at `offset` of a rank's flat tensor."""

    name: str
    start: int
    stop: int
    offset: int


def parts_of_stage_1_2(
    elements: Mapping[str, int], paddings: Sequence[int], partition: int, rank: int
) -> Iterator[Part]:
    """A rank's parts of one group.

    Args:
        elements: how many each parameter has, in the group's order.
        paddings: elements after each of them.
        partition: elements of a rank's flat tensor, padding included.
        rank: whose.
    """
    low, high, at = rank * partition, (rank + 1) * partition, 0
    for (name, count), padding in zip(elements.items(), paddings, strict=True):
        start, stop = max(at, low), min(at + count, high)
        if start < stop:
            yield Part(name, start - at, stop - at, start - low)
        at += count + padding


def parts_of_stage_3(elements: Mapping[str, int], ranks: int, rank: int) -> Iterator[Part]:
    """A rank's parts of one group. Arguments as above; `ranks` share it."""
    at = 0
    for name, count in elements.items():
        share = -(-count // ranks)
        start, stop = rank * share, min((rank + 1) * share, count)
        if start < stop:
            yield Part(name, start, stop, at)
        at += share
