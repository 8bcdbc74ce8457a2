"""mosaicml-streaming's order as far as we have to know it: how many samples, and which of them are repeats. No tables.

Its partition (streaming/base/partition/orig.py) lays N samples out in C rows, its canonical nodes; fills short rows up
by repeating samples; reads them column by column; and deals that sequence out, sample by sample, to nodes and then to
their ranks, of which the last ones repeat samples so that all have as many. Which sample comes where is its own affair:

    place f of an epoch    row f mod C, column f div C
    a repeat               where the column is beyond the row's own samples, (row + 1) N div C - row N div C

The batch of a step is the next B places, whatever the number of ranks. The last of an epoch is partial.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset.errors import UsageError

LIMITS = (
    "loader.name mosaic: the order is mosaicml-streaming's, a table of all samples that is made anew each epoch; "
    "vitstream order and plan know nothing of it; it repeats samples to fill the ranks up; an image that cannot be "
    "decoded is a hole, but a shard that cannot be read ends the run (docs/mds.md)"
)


@dataclass(frozen=True)
class MosaicOrder:
    """An `Accounting` of mosaicml-streaming's order. `consumed` counts places, repeats included."""

    distinct: int  # N
    seed: int
    canonical: int  # C
    nodes: int
    ranks: int  # of all nodes
    shift: int  # places of whole epochs and of the one under way, less `consumed`; not 0 once the padding has changed

    @classmethod
    def of(
        cls, samples: int, seed: int, nodes: int, ranks: int, state: dict[str, Any] | None, consumed: int
    ) -> "MosaicOrder":
        """The order of a run that starts, or goes on after `consumed` from a `StreamingDataset.state_dict`.

        Raises:
            UsageError: these ranks cannot go on from there.
        """
        if state is None:
            return cls(samples, seed, nodes, nodes, ranks, 0)
        canonical, inside = state["num_canonical_nodes"], state["sample_in_epoch"]
        if canonical % nodes and nodes % canonical:
            raise UsageError(
                f"loader.name: mosaic: the run began with {canonical} canonical nodes, which {nodes} nodes cannot "
                "share: take a divisor or a multiple"
            )
        if inside % ranks:
            raise UsageError(
                f"loader.name: mosaic: {inside:,} samples of epoch {state['epoch']} are done, which is no multiple of "
                f"{ranks} ranks: start a number of ranks that divides it"
            )
        order = cls(samples, seed, canonical, nodes, ranks, 0)
        return cls(samples, seed, canonical, nodes, ranks, state["epoch"] * order.samples + inside - consumed)

    @property
    def samples(self) -> int:
        """Places of an epoch: N and the repeats."""
        columns = _up(-(-self.distinct // self.canonical), max(1, self.nodes // self.canonical))
        return _up(self.canonical * columns, self.ranks)

    def where(self, consumed: int) -> tuple[int, int]:
        """(epoch, place in it)."""
        return divmod(consumed + self.shift, self.samples)

    def epoch(self, consumed: int) -> int:
        """As Accounting says."""
        return self.where(consumed)[0]

    def places(self, rank: int, first: int, count: int) -> np.ndarray:
        """int64 [count]: the places of a rank's samples `first`, `first` + 1, ... of an epoch."""
        of_node = self.ranks // self.nodes
        node, own = divmod(rank, of_node)
        return (np.arange(first, first + count, dtype=np.int64) * of_node + own) * self.nodes + node

    def is_repeat(self, places: np.ndarray) -> np.ndarray:
        """bool [n]: whether the sample at a place is one that the epoch has elsewhere."""
        column, row = np.divmod(places, self.canonical)
        return column >= (row + 1) * self.distinct // self.canonical - row * self.distinct // self.canonical

    # -- as Accounting says -------------------------------------------------------------------------------------

    def used(self, part: int, consumed: int) -> int:
        return consumed + self.shift

    def part_samples(self, part: int) -> int:
        return self.samples

    def accounts(self, consumed: int, count: int) -> list[tuple[int, int]]:
        """One: no batch crosses the edge of an epoch."""
        return [(0, self.epoch(consumed))]

    def when(self, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Nobody knows: so never before anything else."""
        return np.full(np.shape(ids), np.iinfo(np.int64).max)


@dataclass(frozen=True)
class MosaicFeed:
    """The steps from `consumed` to the end of the run, for one rank of so many. No step crosses an epoch's edge."""

    order: MosaicOrder
    batch_size: int  # global
    rank: int
    micro_batch_limit: int  # samples at once on this rank
    consumed: int  # places used before this feed begins
    epochs: int | None  # of the whole run; or else
    steps_to_come: int

    @property
    def per_rank(self) -> int:
        return self.batch_size // self.order.ranks

    @property
    def accumulation(self) -> int:
        return -(-self.per_rank // self.micro_batch_limit)

    @property
    def batch(self) -> int:
        """Rows of a micro-batch."""
        return -(-self.per_rank // self.accumulation)

    @property
    def steps(self) -> int:
        """Steps from here to the end of the run."""
        if self.epochs is None:
            return self.steps_to_come
        to_come = self.epochs - self.order.epoch(self.consumed) - 1
        return max(0, self._first + to_come * self._each)

    def at(self, step: int) -> tuple[int, int]:
        """(epoch, place in it) at which the feed's step `step` (from 0) begins."""
        epoch, inside = self.order.where(self.consumed)
        if step < self._first:
            return epoch, inside + step * self.batch_size
        later, number = divmod(step - self._first, self._each)
        return epoch + 1 + later, number * self.batch_size

    def count(self, step: int) -> int:
        """Places of the global batch: the batch size, but for the last of an epoch."""
        return min(self.batch_size, self.order.samples - self.at(step)[1])

    def consumed_before(self, step: int) -> int:
        """Places used when a step begins."""
        epoch, inside = self.at(step)
        return epoch * self.order.samples + inside - self.order.shift

    @property
    def _first(self) -> int:
        """Steps of the epoch under way."""
        return -(-(self.order.samples - self.order.where(self.consumed)[1]) // self.batch_size)

    @property
    def _each(self) -> int:
        """Steps of a whole epoch."""
        return -(-self.order.samples // self.batch_size)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
