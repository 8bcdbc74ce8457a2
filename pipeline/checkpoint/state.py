"""The engine's state as named slices: fp32 weights, the optimizer's moments and, if there is one, their average.

A slice is the part of one parameter that falls into one tensor that this rank's optimizer owns (optim/masters.py). Its
tensors are views of the optimizer's own memory, so the same slices serve to save (read them) and to restore (copy into
them), with no communication: that is why any world size and any stage can load what any other has written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.optim.ema import AVERAGE
from pipeline.optim.masters import create_moments, masters, moments

WEIGHT = "weight"


@dataclass(frozen=True)
class Slice:
    """Elements [start, stop) of the flattened parameter `name`; `tensors` maps a kind to float32 [stop - start]."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    tensors: dict[str, Tensor]

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == torch.Size(self.shape).numel()

    def cut(self, first: int, last: int) -> "Slice":
        """Its elements [first, last), counted from its start."""
        tensors = {kind: values[first:last] for kind, values in self.tensors.items()}
        return replace(self, start=self.start + first, stop=self.start + last, tensors=tensors)


def slices_to_save(engine: Any, rank: int, world_size: int) -> list[Slice]:
    """What this rank writes: together, the ranks' slices cover every parameter exactly once."""
    held = list(_held(engine))
    return held if engine.zero_optimization_stage() else list(_share(held, rank, world_size))


def slices_to_restore(engine: Any) -> list[Slice]:
    """What this rank holds and has to fill: its partition, or, without ZeRO, everything."""
    create_moments(engine)
    return list(_held(engine))


def overlap(start: int, stop: int, low: int, high: int) -> tuple[int, int]:
    """The part of [start, stop) inside [low, high); empty if the first is not below the second."""
    return max(start, low), min(stop, high)


def _held(engine: Any) -> Iterator[Slice]:
    kinds = moments(engine)
    for master in masters(engine):
        wholes = {WEIGHT: master.tensor.detach()} | {moment: master.state[moment] for moment in kinds}
        wholes |= {AVERAGE: master.state[AVERAGE]} if AVERAGE in master.state else {}
        for part in master.parts:
            here = slice(part.offset, part.offset + part.stop - part.start)
            tensors = {kind: whole.view(-1)[here] for kind, whole in wholes.items()}
            yield Slice(part.name, part.shape, part.start, part.stop, tensors)


def _share(slices: list[Slice], rank: int, world_size: int) -> Iterator[Slice]:
    """Where every rank holds everything: an equal share of it for each, so that all write equally much."""
    share = -(-sum(each.stop - each.start for each in slices) // world_size)
    low, offset = rank * share, 0
    for each in slices:
        size = each.stop - each.start
        first, last = overlap(offset, offset + size, low, low + share)
        if first < last:
            yield each.cut(first - offset, last - offset)
        offset += size
