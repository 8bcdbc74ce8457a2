"""Which samples a rank reads, item by item. An item is a micro-batch.

A feed is closed form, and the same on every machine: what an item holds, and, the other way round, in which item and
row a sample is wanted. So any worker of any attempt can make any part of it, and read ahead what it will need.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple, Protocol

import numpy as np

from pipeline.data.order import SampleOrder, slot_owners

NONE = -1  # in place of a slot, a position or a sample id: padding
_TOGETHER: Final = 64  # samples of an evaluation, which is in order


class Wanted(NamedTuple):
    """The samples of some items: int64 [items, rows] each, -1 for padding."""

    ids: np.ndarray
    epochs: np.ndarray  # of the sample's part


class Feed(Protocol):
    """What the workers of one rank make."""

    @property
    def items(self) -> int: ...

    @property
    def batch(self) -> int:
        """Rows of an item that are trained on."""

    @property
    def rows(self) -> int:
        """All rows of an item, with the guests behind."""

    @property
    def seed(self) -> int: ...

    def wanted(self, items: np.ndarray) -> Wanted:
        """Of several items at once: the order takes little longer over many samples than over one."""

    def place(self, epochs: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(items, rows), int64 [n]: where this rank wants these samples, guests aside; -1 where it does not."""

    def neighbours(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[first, last + 1) of the samples that are worth being read together with each of these; int64 [n]."""

    def accounts(self, item: int) -> list[tuple[int, int]]:
        """(part, epoch) of the global batch's samples, the same on all ranks: the ledger's rows."""

    def parts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, number within the part), int64 [n] each."""


@dataclass(frozen=True)
class TrainFeed:
    """From `consumed` to the end of the run, for one rank of so many. Item = step * accumulation + micro-step."""

    order: SampleOrder
    batch_size: int  # global
    world_size: int
    rank: int
    micro_batch_limit: int  # samples at once on this rank
    consumed: int  # samples used before this feed begins
    total: int  # samples of the whole run
    mixes: bool = False  # each slot's partner, slot XOR 1, is needed beside it

    @property
    def steps(self) -> int:
        """Steps from here to the end; the last may be partial."""
        return -(-(self.total - self.consumed) // self.batch_size)

    @property
    def items(self) -> int:
        return self.steps * self.accumulation

    @property
    def seed(self) -> int:
        return self.order.seed

    def part(self, first: int, steps: int) -> "TrainFeed":
        """So many of its steps, from its step `first` (from 0) on, as a feed of their own."""
        end = min(self.total, self.consumed_before(first + steps))
        return replace(self, consumed=self.consumed_before(first), total=end)

    @cached_property
    def slots(self) -> np.ndarray:
        """int64 [accumulation, micro_batch]: this rank's slots of every global batch, padded with -1."""
        owners = slot_owners(self.batch_size, self.world_size, self.order.lanes)
        mine = np.flatnonzero(owners == self.rank)
        most = -(-self.batch_size // self.world_size)
        accumulation = -(-most // self.micro_batch_limit)
        micro_batch = -(-most // accumulation)
        padded = np.full(accumulation * micro_batch, NONE, np.int64)
        padded[: len(mine)] = mine
        return padded.reshape(accumulation, micro_batch)

    @cached_property
    def slots_and_guests(self) -> np.ndarray:
        """int64 [accumulation, rows]: the same, and behind them the partners that are not in the micro-batch."""
        if not self.mixes:
            return self.slots
        guests = [np.setdiff1d((row ^ 1)[row != NONE], row) for row in self.slots]
        guests = [found[found < self.batch_size] for found in guests]
        most = max(map(len, guests))
        return np.stack(
            [
                np.concatenate([row, found, np.full(most - len(found), NONE)])
                for row, found in zip(self.slots, guests, strict=True)
            ]
        )

    def rows_of(self, micro: int, partner_slot: np.ndarray) -> np.ndarray:
        """int64 [batch]: the row in which each one's partner (a slot, or -1) lies; its own where it has none."""
        seats, own = self.slots_and_guests[micro], np.arange(self.batch)
        by_slot = np.argsort(seats, kind="stable")
        wanted = np.where(partner_slot == NONE, seats[: self.batch], partner_slot)
        found = by_slot[np.searchsorted(seats, wanted, sorter=by_slot)]
        return np.where(partner_slot == NONE, own, found)

    @property
    def accumulation(self) -> int:
        return self.slots.shape[0]

    @property
    def batch(self) -> int:
        return self.slots.shape[1]

    @property
    def rows(self) -> int:
        return self.slots_and_guests.shape[1]

    def consumed_before(self, step: int) -> int:
        """Samples used when the feed's step `step` (from 0) begins."""
        return self.consumed + step * self.batch_size

    def count(self, step: int) -> int:
        """Samples of the global batch: the batch size, but for a partial last step."""
        return min(self.batch_size, self.total - self.consumed_before(step))

    def positions(self, items: int | np.ndarray) -> np.ndarray:
        """int64 [items, rows], or [rows] of one: counts of consumed samples to give to the order, or -1 for padding."""
        steps, micros = np.divmod(items, self.accumulation)
        slots, before = self.slots_and_guests[micros], self.consumed + np.asarray(steps)[..., None] * self.batch_size
        return np.where((slots != NONE) & (before + slots < self.total), before + slots, NONE)

    def wanted(self, items: np.ndarray) -> Wanted:
        positions = self.positions(items)
        used = positions != NONE
        epochs, ids = (np.full(positions.shape, NONE) for _ in range(2))
        epochs[used], ids[used] = self.order.at(positions[used])
        return Wanted(ids, epochs)

    def place(self, epochs: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        since = self.order.when(epochs, ids) - self.consumed
        step, slot = np.divmod(since, self.batch_size)
        micro, row = np.divmod(self._place_of_slot[slot], self.batch)
        never = (since < 0) | (since >= self.total - self.consumed) | (micro < 0)
        return np.where(never, NONE, step * self.accumulation + micro), np.where(never, NONE, row)

    @cached_property
    def _place_of_slot(self) -> np.ndarray:
        """int64 [batch_size]: micro-step * batch + row of each slot; -1 of other ranks' slots."""
        places = np.full(self.batch_size, NONE, np.int64)
        flat = self.slots.ravel()
        places[flat[flat != NONE]] = np.flatnonzero(flat != NONE)
        return places

    def neighbours(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.order.chunks_of(ids)

    def accounts(self, item: int) -> list[tuple[int, int]]:
        step = item // self.accumulation
        return self.order.accounts(self.consumed_before(step), self.count(step))

    def parts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.order.parts(ids)


@dataclass(frozen=True)
class EvaluationFeed:
    """Every sample once, in order, dealt to ranks in blocks of equal length, padded at the end."""

    samples: int
    batch_limit: int
    rank: int
    world_size: int

    @property
    def per_rank(self) -> int:
        return -(-self.samples // self.world_size)

    @property
    def batch(self) -> int:
        return min(self.batch_limit, self.per_rank)

    @property
    def rows(self) -> int:
        return self.batch

    @property
    def items(self) -> int:
        return -(-self.per_rank // self.batch)

    @property
    def seed(self) -> int:
        return 0

    def wanted(self, items: np.ndarray) -> Wanted:
        inside = items[:, None] * self.batch + np.arange(self.batch)
        ids = self.rank * self.per_rank + inside
        ids = np.where((inside < self.per_rank) & (ids < self.samples), ids, NONE)
        return Wanted(ids, np.where(ids == NONE, NONE, 0))

    def place(self, epochs: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = ids - self.rank * self.per_rank
        item, row = np.divmod(inside, self.batch)
        never = (inside < 0) | (inside >= self.per_rank)
        return np.where(never, NONE, item), np.where(never, NONE, row)

    def neighbours(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = ids // _TOGETHER * _TOGETHER
        return first, np.minimum(first + _TOGETHER, self.samples)

    def accounts(self, item: int) -> list[tuple[int, int]]:
        return [(0, 0)]

    def parts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros_like(ids), ids
