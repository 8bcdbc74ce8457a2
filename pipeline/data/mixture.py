"""A mixture: several datasets in fixed shares, still a pure function of one integer.

    consumed -> (block, place) = divmod(consumed, T) -> dataset d, and its k-th place in the block
             -> d's own count, block * T_d + k -> d's own order -> (d's epoch, sample id)

A block is T places, T a multiple of the lanes L; T_d of them, with T_1 + T_2 + ... = T, are dataset d's, the same
places in every block. So the shares are exact after every T samples, and the places are laid out so that they are
right to within one sample after any number: every batch is mixed alike. Which place is whose is one table of T
entries, however large the datasets. Shuffling is the datasets' own affair: each has an order of its own, with T_d
lanes and a seed of its own, and goes through its own epochs, each of which reads every sample of it once.

A place of the block is a lane of its dataset: throughout an epoch of d's, d's k-th place reads one lane of d's. And a
place stays with one rank where a lane of a single dataset does, as L divides T. So a chunk is one rank's to read here,
too.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.data.keyed import keyed
from pipeline.data.order import Order, epochs_between, lanes_for

MIN_BLOCK = 1024  # places: shares are right to 1/2048 at worst
_PART = 16  # domain of the hash of parts, which are not samples


@dataclass(frozen=True)
class Mixture:
    """A weighted mixture. Chosen once per run (`fit`), stored with it; the batch size is no part of it."""

    seed: int
    lanes: int  # L
    shares: tuple[int, ...]  # T_d
    orders: tuple[Order, ...]

    @classmethod
    def fit(cls, samples: list[int], weights: list[float], batch_size: int, seed: int) -> "Mixture":
        """The parameters for datasets of so many samples each, weighted so, and the run's first global batch size."""
        lanes = lanes_for(batch_size)
        shares = apportion(weights, lanes * -(-MIN_BLOCK // lanes))
        seeds = [int(keyed(seed, _PART, part)[0]) >> 1 for part in range(len(samples))]
        rounds = max(1, batch_size // sum(shares))
        made = zip(samples, shares, seeds, strict=True)
        return cls(seed, lanes, shares, tuple(Order.with_lanes(n, share, rounds, own) for n, share, own in made))

    @property
    def samples(self) -> int:
        """Samples of all datasets."""
        return int(self._starts[-1])

    def at(self, consumed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As SampleOrder says."""
        block, place = np.divmod(np.asarray(consumed, np.int64), self._block)
        owners, own = self._owners[place], self._ordinals[place]
        own = block * np.asarray(self.shares)[owners] + own
        epochs, ids = np.empty_like(own), np.empty_like(own)
        for part in np.unique(owners):
            mine = owners == part
            epochs[mine], local = self.orders[part].at(own[mine])
            ids[mine] = self._starts[part] + local
        return epochs, ids

    def when(self, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """As SampleOrder says."""
        epochs, ids = np.broadcast_arrays(np.asarray(epochs, np.int64), np.asarray(ids, np.int64))
        owners, local = self.parts(ids)
        consumed = np.empty_like(ids)
        for part in np.unique(owners):
            mine = owners == part
            own = self.orders[part].when(epochs[mine], local[mine])
            block, ordinal = np.divmod(own, self.shares[part])
            consumed[mine] = block * self._block + np.flatnonzero(self._owners == part)[ordinal]
        return consumed

    def accounts(self, consumed: int, count: int) -> list[tuple[int, int]]:
        """As SampleOrder says."""
        return [
            (part, epoch)
            for part, order in enumerate(self.orders)
            for epoch in epochs_between(order.samples, self.used(part, consumed), self.used(part, consumed + count))
        ]

    def epoch(self, consumed: int) -> int:
        """As SampleOrder says."""
        return consumed // self.samples

    def part_of(self, ids: np.ndarray) -> np.ndarray:
        """As SampleOrder says."""
        return np.searchsorted(self._starts, np.asarray(ids, np.int64), side="right").astype(np.int64) - 1

    def parts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As SampleOrder says."""
        owners = self.part_of(ids)
        return owners, np.asarray(ids, np.int64) - self._starts[owners]

    def chunks_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As SampleOrder says: of their datasets' orders."""
        parts, local = self.parts(ids)
        lengths = np.array([order.chunk for order in self.orders])[parts]
        first = local // lengths * lengths
        stop = np.minimum(first + lengths, np.array([order.samples for order in self.orders])[parts])
        return self._starts[parts] + first, self._starts[parts] + stop

    def used(self, part: int, consumed: int) -> int:
        """As SampleOrder says."""
        block, place = divmod(consumed, self._block)
        return block * self.shares[part] + int(np.count_nonzero(self._owners[:place] == part))

    def part_samples(self, part: int) -> int:
        """As SampleOrder says."""
        return self.orders[part].samples

    def to_json(self) -> dict[str, Any]:
        """As SampleOrder says."""
        orders = [order.to_json() for order in self.orders]
        return {"seed": self.seed, "lanes": self.lanes, "shares": list(self.shares), "orders": orders}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Mixture":
        return cls(body["seed"], body["lanes"], tuple(body["shares"]), tuple(Order(**o) for o in body["orders"]))

    # -- the block ---------------------------------------------------------------------------------------------

    @property
    def _block(self) -> int:  # T
        return sum(self.shares)

    @cached_property
    def _starts(self) -> np.ndarray:
        """int64 [parts + 1]: the global id of each part's first sample, and the total."""
        return np.concatenate([[0], np.cumsum([order.samples for order in self.orders], dtype=np.int64)])

    @cached_property
    def _owners(self) -> np.ndarray:
        return lay_out(self.shares)

    @cached_property
    def _ordinals(self) -> np.ndarray:
        """int64 [T]: how many earlier places of the block have the same owner."""
        ordinals = np.empty(self._block, np.int64)
        for part, share in enumerate(self.shares):
            ordinals[self._owners == part] = np.arange(share)
        return ordinals


def apportion(weights: list[float], places: int) -> tuple[int, ...]:
    """Whole numbers of places, by largest remainder, that add up to `places`; none has less than one.

    `weights` are positive, and no more than there are places.
    """
    weight, shares = np.asarray(weights, np.float64) / max(weights), np.ones(len(weights), np.int64)
    large = np.ones(len(weights), bool)
    while True:  # those due less than one place get one; the others share what is left
        exact = weight[large] * ((places - np.count_nonzero(~large)) / weight[large].sum())
        if (exact >= 1).all():
            break
        large[np.flatnonzero(large)[exact < 1]] = False
    whole = np.floor(exact).astype(np.int64)
    over = places - np.count_nonzero(~large) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:over]] += 1
    shares[large] = whole
    return tuple(int(share) for share in shares)


def lay_out(shares: tuple[int, ...]) -> np.ndarray:
    """int64 [sum(shares)]: who owns each place, so that any beginning has each in its share, to less than one.

    Tijdeman's rule (The chairman assignment problem, Discrete Mathematics 32, 1980): at the n-th place, of those who
    are behind by 1/(2D - 2) or more, n T_d/T - x_d, the one who would be the first to be behind by too much. It keeps
    |n T_d/T - x_d| <= 1 - 1/(2D - 2) for all n and d. Here times T (2D - 2), in whole numbers.
    """
    parts, places = len(shares), sum(shares)
    share, given = np.asarray(shares, np.int64), np.zeros(len(shares), np.int64)
    scale = max(1, 2 * parts - 2)
    owners = np.empty(places, np.int64)
    for n in range(1, places + 1):
        behind = (n * share - given * places) * scale
        left = places * scale - places - behind  # of the room for being behind; divided by the share: for how long
        due = np.where(behind >= places, left / share, np.inf)
        owners[n - 1] = chosen = int(np.argmin(due))
        given[chosen] += 1
    return owners
