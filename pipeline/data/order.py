"""The order: which sample is read when, as a pure function of one integer.

    consumed -> (epoch, position) = divmod(consumed, N) -> sample id

Per epoch, the N samples lie in M = N // C chunks of C neighbours, which a keyed permutation shuffles. The shuffled
chunks are dealt like cards to L lanes, Q = M // L to each. Position p below L*Q*C belongs to lane p mod L, so a
global batch takes the same number from every lane. Inside a lane, the samples of G chunks at a time (a window) are
shuffled by a permutation of their own. Windows are staggered, lane by lane, so that they do not all end, and need
refilling, at the same step. What does not fill the lanes (fewer than L*C + C samples) is one block at the end,
shuffled as a whole: nothing is dropped, padded or repeated.

    chunks     C neighbours of a shard, one range of bytes, are read close together
    windows    L*G*C samples is the pool that a batch is drawn from
    lanes      a lane stays with one rank throughout an epoch, so a chunk is one rank's to read

No table of length N exists; any position, of any epoch, is answered in microseconds, in both directions.
"""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.data.keyed import keyed
from pipeline.data.permutation import permute, unpermute

MAX_LANES = 4096
DEFAULT_CHUNK = 64
DEFAULT_WINDOW = 16
_CHUNKS, _WINDOW, _TAIL = 1, 2, 3  # domains of the hash, so that no two permutations share a key


class Accounting(Protocol):
    """What the journal, the ledger and the holes ask of an order.

    A part is what has epochs of its own: one dataset or concatenation (part 0), or each dataset of a mixture. An
    account is (part, epoch of that part): what the ledger keeps sums for. Arrays are int64 [n].
    """

    def epoch(self, consumed: int) -> int:
        """How many times `consumed` samples are all of all parts."""

    def accounts(self, consumed: int, count: int) -> list[tuple[int, int]]:
        """The accounts that the `count` samples after `consumed` touch, sorted."""

    def used(self, part: int, consumed: int) -> int:
        """How many of the first `consumed` samples are of this part: its own epochs follow from that."""

    def part_samples(self, part: int) -> int:
        """Samples of a part."""

    def when(self, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The counts of consumed samples at which these are read in these epochs of their parts."""


class SampleOrder(Accounting, Protocol):
    """What a run reads when. State is one integer, `consumed`: the samples used since the run began."""

    @property
    def samples(self) -> int:
        """Samples of all parts."""

    @property
    def lanes(self) -> int:
        """Lanes, for `slot_owners`."""

    @property
    def seed(self) -> int:
        """The run's."""

    def at(self, consumed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch of its part, global id) of the samples at these counts: the inverse of `when`.

        Ids go through all datasets, one by one.
        """

    def part_of(self, ids: np.ndarray) -> np.ndarray:
        """The part of each global id."""

    def parts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, id within the part) of each global id."""

    def chunks_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[first, last + 1): the global ids of each one's chunk, which are read close together."""

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps; `order_from_json` reads it."""


@dataclass(frozen=True)
class Order:
    """An order over `samples` samples. Chosen once per run (`fit`), stored with it; the batch size is no part of it."""

    samples: int  # N
    seed: int
    lanes: int  # L
    chunk: int  # C, in samples
    window: int  # G, in chunks

    @classmethod
    def fit(cls, samples: int, batch_size: int, seed: int) -> "Order":
        """The parameters for a dataset and the run's first global batch size: L is `lanes_for` it."""
        lanes = lanes_for(batch_size)
        return cls.with_lanes(samples, lanes, batch_size // lanes, seed)

    @classmethod
    def with_lanes(cls, samples: int, lanes: int, rounds: int, seed: int) -> "Order":
        """The parameters for a dataset and a number of lanes, to which a batch comes `rounds` times.

        C is halved until the tail is at most 1/32 of the dataset (or C is 1: then the shuffle of chunks is a full
        permutation of the samples). G is 16 for each round, or what a lane has: so a batch is at most 1/1024 of the
        pool that it is drawn from, unless the dataset is smaller. Where a batch takes several samples of a lane, they
        would too often be neighbours in a window of few chunks: there C is halved until a lane has G of them.
        """
        chunk, window = DEFAULT_CHUNK, DEFAULT_WINDOW * rounds
        least = window if rounds > 1 else 0  # chunks of a lane
        while chunk > 1 and (
            samples - (lane_chunks := samples // chunk // lanes) * lanes * chunk > samples / 32 or lane_chunks < least
        ):
            chunk //= 2
        return cls(samples, seed, lanes, chunk, max(1, min(window, samples // chunk // lanes)))

    def at(self, consumed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As SampleOrder says."""
        epochs, position = np.divmod(np.asarray(consumed, np.int64), self.samples)
        ids = np.empty_like(position)
        body = position < self.body
        ids[body] = self._body_ids(epochs[body], position[body])
        ids[~body] = self._tail_ids(epochs[~body], position[~body] - self.body)
        return epochs, ids

    def ids(self, consumed: np.ndarray) -> np.ndarray:
        """The ids alone."""
        return self.at(consumed)[1]

    def when(self, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """As SampleOrder says."""
        epochs, ids = np.broadcast_arrays(np.asarray(epochs, np.int64), np.asarray(ids, np.int64))
        chunk, offset = np.divmod(ids, self.chunk)
        in_chunks = chunk < self._chunks
        ordinal = np.where(in_chunks, chunk, 0)
        ordinal = unpermute(ordinal, self._chunks, self._key(_CHUNKS, epochs)) if self._chunks else ordinal
        in_body = in_chunks & (ordinal < self.lanes * self._lane_chunks)

        nth, lane = np.divmod(np.where(in_body, ordinal, 0), self.lanes)
        number, start, size = self.window_at(nth, lane)
        inside = (nth - start) * self.chunk + offset
        size = np.where(in_body, size, 1)
        inside = unpermute(np.where(in_body, inside, 0), size, self._key(_WINDOW, epochs, lane, number))
        body = (start * self.chunk + inside) * self.lanes + lane

        in_tail = np.where(in_chunks, (ordinal - self.lanes * self._lane_chunks) * self.chunk + offset, ids - self.body)
        tail = unpermute(np.where(in_body, 0, in_tail), max(1, self.tail), self._key(_TAIL, epochs))
        return epochs * self.samples + np.where(in_body, body, self.body + tail)

    def accounts(self, consumed: int, count: int) -> list[tuple[int, int]]:
        """As SampleOrder says: two epochs where the samples cross an edge, more where they hold whole ones."""
        return [(0, epoch) for epoch in epochs_between(self.samples, consumed, consumed + count)]

    def epoch(self, consumed: int) -> int:
        """As SampleOrder says."""
        return consumed // self.samples

    def part_of(self, ids: np.ndarray) -> np.ndarray:
        """As SampleOrder says: one part."""
        return np.zeros_like(np.asarray(ids, np.int64))

    def parts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As SampleOrder says."""
        return self.part_of(ids), np.asarray(ids, np.int64)

    def chunks_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As SampleOrder says. The last N mod C samples have one that is not full."""
        first = ids // self.chunk * self.chunk
        return first, np.minimum(first + self.chunk, self.samples)

    def used(self, part: int, consumed: int) -> int:
        """As SampleOrder says: all of them."""
        return consumed

    def part_samples(self, part: int) -> int:
        """As SampleOrder says."""
        return self.samples

    @property
    def body(self) -> int:
        """Samples of an epoch that lie in lanes."""
        return self.lanes * self._lane_chunks * self.chunk

    @property
    def tail(self) -> int:
        """Samples of an epoch that do not, and end it."""
        return self.samples - self.body

    def window_at(self, nth: np.ndarray, lane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(number, first chunk, size in samples) of the window that holds a lane's nth chunk."""
        shift = lane * self.window // self.lanes
        number = (nth + shift) // self.window
        start = np.maximum(number * self.window - shift, 0)
        stop = np.minimum((number + 1) * self.window - shift, self._lane_chunks)
        return number, start, (stop - start) * self.chunk

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    # -- the parts ---------------------------------------------------------------------------------------------

    @property
    def _chunks(self) -> int:  # M
        return self.samples // self.chunk

    @property
    def _lane_chunks(self) -> int:  # Q
        return self._chunks // self.lanes

    def _key(self, domain: int, epoch: np.ndarray, *where: np.ndarray) -> np.ndarray:
        return keyed(self.seed, domain, epoch, *where)

    def _body_ids(self, epoch: np.ndarray, position: np.ndarray) -> np.ndarray:
        nth_sample, lane = np.divmod(position, self.lanes)
        number, start, size = self.window_at(nth_sample // self.chunk, lane)
        inside = permute(nth_sample - start * self.chunk, size, self._key(_WINDOW, epoch, lane, number))
        nth, offset = np.divmod(inside, self.chunk)
        return self._chunk_start(epoch, (start + nth) * self.lanes + lane) + offset

    def _tail_ids(self, epoch: np.ndarray, position: np.ndarray) -> np.ndarray:
        inside = permute(position, max(1, self.tail), self._key(_TAIL, epoch))
        spare_chunks = self._chunks - self.lanes * self._lane_chunks
        nth, offset = np.divmod(inside, self.chunk)
        in_chunk = nth < spare_chunks
        ordinal = np.where(in_chunk, self.lanes * self._lane_chunks + nth, 0)
        ids = self.body + inside  # the last N mod C samples, which fill no chunk
        ids[in_chunk] = (self._chunk_start(epoch, ordinal) + offset)[in_chunk]
        return ids

    def _chunk_start(self, epoch: np.ndarray, ordinal: np.ndarray) -> np.ndarray:
        if self._chunks == 0:
            return np.zeros_like(ordinal)
        return permute(ordinal, self._chunks, self._key(_CHUNKS, epoch)) * self.chunk


def lanes_for(batch_size: int) -> int:
    """L: the largest divisor of the batch up to 4,096."""
    return max(d for d in range(1, min(batch_size, MAX_LANES) + 1) if batch_size % d == 0)


def epochs_between(samples: int, start: int, stop: int) -> range:
    """The epochs of `samples` samples that the counts [start, stop) touch."""
    return range(start // samples, (stop - 1) // samples + 1) if stop > start else range(0)


def slot_owners(batch_size: int, world_size: int, lanes: int) -> np.ndarray:
    """int64 [batch_size]: the rank that reads each slot of a global batch.

    Blocks of slots, rank by rank; where the batch holds several rounds of the lanes, blocks of lanes, so that each
    lane stays with one rank. Counts are equal where the world size divides the batch, else they differ by one.
    """
    slots = np.arange(batch_size, dtype=np.int64)
    if batch_size % lanes == 0 and lanes % world_size == 0:
        return slots % lanes * world_size // lanes
    return slots * world_size // batch_size
