"""Compressed bytes in memory, read ahead of their use.

A worker looks `read_ahead` items ahead. What it will need there, and does not have, is asked for; and with it whatever
of the same chunk this worker will need later: the order (order.py) lets a chunk's samples be used within one window, so
that one large request serves many items, and each byte is fetched once. Of a chunk, others' samples are not read, but
for what lies in small gaps.

    memory     about half of the samples of the worker's windows, on average, and what is read ahead. Chunks for which
               there is no room are read sample by sample: the same order, with small requests
    start      the first items are read at once, sample by sample, so that a start or a resume need not wait for windows
    hang       an answer that does not come makes a hole, not a rank that waits
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from pipeline.data.feed import NONE, Feed
from pipeline.data.giving_up import LOOK_S, GaveUp, GiveUp, never
from pipeline.data.read import Reader
from pipeline.data.sample import Hole, Sample

Key = tuple[int, int]  # epoch of the sample's part, sample id
_PLANNED_TOGETHER: Final = 1024  # rows: over as many, the order costs less than a microsecond each
_ASKED_TOGETHER: Final = 64  # samples of a file system, whose answers take less than handing a question to a thread
_ASKED_AT_ONCE: Final = 8  # the same of the first items, which somebody waits for


class Request:
    """Some samples, asked for together."""

    def __init__(self) -> None:
        self.asked_at = time.monotonic()
        self.begun_at: float | None = None
        self.answer: Future[None]
        self.found: dict[Key, Sample | Hole] | None = None  # once it is answered; what is taken leaves it


_NOT_YET: Final = Request()  # holds the place of one that is about to be asked


@dataclass(frozen=True)
class Share:
    """What one worker makes of each item: rows [first, stop)."""

    worker: int
    workers: int
    rows: int

    @property
    def first(self) -> int:
        return self.worker * self.rows // self.workers

    @property
    def stop(self) -> int:
        return (self.worker + 1) * self.rows // self.workers


class Taken(NamedTuple):
    """A worker's rows of an item."""

    rows: np.ndarray  # int64 [n]
    ids: np.ndarray  # int64 [n]
    epochs: np.ndarray  # int64 [n]
    samples: list[Sample | Hole]
    empty: np.ndarray  # int64: rows that hold nothing


class _Item(NamedTuple):
    """What a worker needs for an item."""

    ids: np.ndarray  # int64 [rows of the share], -1 for padding
    epochs: np.ndarray
    own: list[Key]
    guests: list[Key]


@dataclass
class Window:
    """What one worker has asked for, and not used yet.

    Args:
        reader: where it asks.
        feed: what its rank will need.
        share: which rows of it are this worker's.
        ahead: how many items it looks ahead.
        at_once: how many items, from the first, are read sample by sample.
        room: up to how many samples in memory, or asked for, the rest of a chunk is asked for, too.
        requests: how many may be under way.
        hang_s: seconds after which an answer is not waited for any longer.
        known_holes: causes of samples that were holes when these steps were done before: they are so again, unread.
        give_up: whether an answer is not to be waited for any longer, whatever it was.
    """

    reader: Reader
    feed: Feed
    share: Share
    ahead: int
    at_once: int
    room: int
    requests: int
    hang_s: float
    known_holes: dict[Key, str] = field(default_factory=dict)
    give_up: GiveUp = never

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.requests, "vitstream-read")
        self._asked: dict[Key, Request] = {}
        self._guests: dict[Key, Request] = {}
        self._planned: deque[_Item] = deque()  # those that are not taken yet
        self._planned_to = self._asked_to = 0  # items
        self._chunks: dict[Key, list[tuple[Key, int]]] = {}  # of what is planned, and was missing then
        self._answered_at = time.monotonic()  # any request
        rows = self.share.stop - self.share.first
        self._planned_together = -(-_PLANNED_TOGETHER // rows)  # items
        self._asked_together = min(-(-_ASKED_TOGETHER // rows), max(1, self.ahead // 4))

    def take(self, item: int) -> Taken:
        """The samples of an item, the next; waits for them. Their bytes leave the window.

        First it asks for what the items up to `item + ahead` need, and perhaps for a quarter as many more.

        Raises:
            WorkFailed: a shard's index cannot be used.
            GaveUp: they did not come, and are not to be waited for.
        """
        stop = min(item + self.ahead + 1, self.feed.items)
        while self._asked_to < stop:
            first = self._asked_to
            if first == self._planned_to:
                self._plan(range(first, min(first + self._planned_together, self.feed.items)))
            some = self._asked_together if first >= self.at_once else self.at_once - first
            self._ask_for(range(first, min(first + some, self._planned_to)), item)
        ids, epochs, own, guests = self._planned.popleft()
        seats = np.arange(self.share.first, self.share.stop)
        used = ids != NONE
        samples = self._found(self._asked, own) + self._found(self._guests, guests)
        return Taken(seats[used], ids[used], epochs[used], samples, seats[~used])

    @property
    def samples(self) -> int:
        """How many are in memory, or asked for."""
        return len(self._asked)

    def close(self) -> None:
        """Nothing more is asked for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _found(self, asked: dict[Key, Request], keys: list[Key]) -> list[Sample | Hole]:
        samples: list[Sample | Hole] = []
        for key in keys:
            request = asked.pop(key)
            if request.found is not None or self._answered(request):
                assert request.found is not None
                samples.append(request.found.pop(key))
            else:
                cause = f"the storage has not answered for {self.hang_s:.0f} s"
                samples.append(self.reader.nameless_hole(key[1], cause))
        return samples

    def _answered(self, request: Request) -> bool:
        """Waits; False if there is no hope. Raises what the reading raised."""
        while not request.answer.done():
            if self._hopeless(request):
                return False
            wait([request.answer], LOOK_S)
            if not request.answer.done() and self.give_up():
                raise GaveUp
        request.answer.result()
        return True

    def _hopeless(self, request: Request) -> bool:
        """Whether it has been under way for too long, or waits behind others none of which is answered."""
        now = time.monotonic()
        if request.begun_at is not None:
            return now - request.begun_at > self.hang_s
        return now - max(request.asked_at, self._answered_at) > self.hang_s

    def _plan(self, items: range) -> None:
        """What these items, the next, will need: for many at once, as the order takes little longer over them."""
        wanted = self.feed.wanted(np.arange(items.start, items.stop))
        share = slice(self.share.first, self.share.stop)
        ids, epochs = wanted.ids[:, share], wanted.epochs[:, share]
        own = np.arange(share.start, share.stop) < self.feed.batch
        planned = [
            _Item(i, e, _keys(e[own], i[own]), _keys(e[~own], i[~own])) for i, e in zip(ids, epochs, strict=True)
        ]
        self._planned += planned
        self._planned_to = items.stop
        missing = [key for item in planned for key in item.own if key not in self._asked]
        if missing:
            self._chunks |= self._chunks_of(items.start, missing)

    def _chunks_of(self, item: int, missing: list[Key]) -> dict[Key, list[tuple[Key, int]]]:
        """The chunk of each that has one: all of its samples that this worker needs at `item` or later, and when."""
        epochs, ids = np.array(missing, np.int64).T
        first, stop = self.feed.neighbours(ids)
        chunks, number = np.unique(np.stack([epochs, first, stop], axis=1), axis=0, return_inverse=True)
        epochs, first, stop = chunks.T
        lengths = stop - first
        ends = np.cumsum(lengths)
        ids = np.arange(lengths.sum()) + np.repeat(first - (ends - lengths), lengths)
        epochs = np.repeat(epochs, lengths)
        items, rows = self.feed.place(epochs, ids)
        needed = (items >= item) & (rows >= self.share.first) & (rows < self.share.stop)
        members: list[list[tuple[Key, int]]] = [[] for _ in range(len(lengths))]
        of_chunk = np.repeat(np.arange(len(lengths)), lengths)[needed].tolist()
        for chunk, key, at in zip(of_chunk, _keys(epochs[needed], ids[needed]), items[needed].tolist(), strict=True):
            members[chunk].append((key, at))
        chunk_of = zip(missing, number.ravel().tolist(), strict=True)
        return {key: members[chunk] for key, chunk in chunk_of if len(members[chunk]) > 1}

    def _ask_for(self, items: range, taken: int) -> None:
        """Asks for what these items, the next, need and is not there, with the rest of its chunks if there is room."""
        at_once = items.start < self.at_once
        groups: list[list[Key]] = []
        guests: list[list[Key]] = []
        for item in items:
            planned = self._planned[item - taken]
            guests += [[key] for key in planned.guests]  # each comes for its item alone
            for key in planned.own:
                chunk = self._chunks.pop(key, None)
                if key in self._asked:
                    continue
                keys = [key]
                if chunk and not at_once:
                    rest = [other for other, at in chunk if at >= item and other not in self._asked]
                    keys = rest if len(self._asked) + len(rest) <= self.room else keys
                groups.append(keys)
                self._asked |= dict.fromkeys(keys, _NOT_YET)
        self._asked_to = items.stop
        self._ask(self._asked, groups, at_once)
        self._ask(self._guests, guests, at_once)

    def _ask(self, asked: dict[Key, Request], groups: list[list[Key]], at_once: bool) -> None:
        """Asks for groups of samples: each by itself where an answer may take a while; else several."""
        together = 1 if self.reader.slow else _ASKED_AT_ONCE if at_once else _ASKED_TOGETHER
        keys: list[Key] = []
        for group in groups:
            keys += group
            if len(keys) >= together or group is groups[-1]:
                request = Request()
                request.answer = self._pool.submit(self._read, request, keys, at_once)
                asked |= dict.fromkeys(keys, request)
                keys = []

    def _read(self, request: Request, keys: list[Key], at_once: bool) -> None:
        request.begun_at = time.monotonic()
        known = {key: self.reader.hole(key[1], self.known_holes[key]) for key in keys if key in self.known_holes}
        try:
            read = self.reader.read([key[1] for key in keys if key not in known], at_once)
            request.found = {key: read[key[1]] if key not in known else known[key] for key in keys}
        finally:
            self._answered_at = time.monotonic()


def _keys(epochs: np.ndarray, ids: np.ndarray) -> list[Key]:
    """Those that are no padding."""
    used = ids != NONE
    return list(zip(epochs[used].tolist(), ids[used].tolist(), strict=True))
