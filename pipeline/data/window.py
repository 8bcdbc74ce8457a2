"""Compressed bytes in memory, read ahead of their use.

A worker looks `read_ahead` items ahead. What it will need there, and does not have, is asked for; and with it whatever
of the same chunk this worker will need later: the order (order.py) lets a chunk's samples be used within one window, so
that one large request serves many items, and each byte is fetched once. Of a chunk, others' samples are not read.

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
from pipeline.data.read import Hole, Reader, Sample

Key = tuple[int, int]  # epoch of the sample's part, sample id
_LOOK_S: Final = 1.0  # how often whoever waits looks whether there is still hope
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


@dataclass
class Window:
    """What one worker has asked for, and not used yet.

    Args:
        reader: where it asks.
        feed: what its rank will need.
        share: which rows of it are this worker's.
        ahead: how many items it looks ahead.
        at_once: how many items, from the first, are read sample by sample.
        room: how many samples may be in memory beyond those of the items looked ahead to.
        requests: how many may be under way.
        hang_s: seconds after which an answer is not waited for any longer.
        known_holes: causes of samples that were holes when these steps were done before: they are so again, unread.
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

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.requests, "vitstream-read")
        self._asked: dict[Key, Request] = {}
        self._guests: dict[Key, Request] = {}
        self._planned = 0  # items
        self._wanted: deque[tuple[np.ndarray, np.ndarray]] = deque()  # (ids, epochs) of those planned and not taken
        most = max(1, _PLANNED_TOGETHER // (self.share.stop - self.share.first))
        self._together = min(most, max(1, self.ahead // 2))
        self._answered_at = time.monotonic()  # any request

    def take(self, item: int) -> Taken:
        """The samples of an item, the next; waits for them. Their bytes leave the window.

        First it asks for what the items up to `item + ahead` need, or for half as many more.

        Raises:
            WorkFailed: a shard's index cannot be used.
        """
        while self._planned < min(item + self.ahead + 1, self.feed.items):
            most = self.at_once if self._planned < self.at_once else self._planned + self._together
            self._plan(range(self._planned, min(most, self.feed.items)))
        ids, epochs = self._wanted.popleft()
        rows = np.arange(self.share.first, self.share.stop)
        used = ids != NONE
        rows, ids, epochs, empty = rows[used], ids[used], epochs[used], rows[~used]
        own = np.count_nonzero(rows < self.feed.batch)
        keys = list(zip(epochs.tolist(), ids.tolist(), strict=True))
        samples = self._found(self._asked, keys[:own]) + self._found(self._guests, keys[own:])
        return Taken(rows, ids, epochs, samples, empty)

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
                samples.append(Hole(key[1], "", 0, "", -1, cause))
        return samples

    def _answered(self, request: Request) -> bool:
        """Waits; False if there is no hope. Raises what the reading raised."""
        while not wait([request.answer], _LOOK_S).done:
            if self._hopeless(request):
                return False
        request.answer.result()
        return True

    def _hopeless(self, request: Request) -> bool:
        """Whether it has been under way for too long, or waits behind others none of which is answered."""
        now = time.monotonic()
        if request.begun_at is not None:
            return now - request.begun_at > self.hang_s
        return now - max(request.asked_at, self._answered_at) > self.hang_s

    def _plan(self, items: range) -> None:
        """Asks for what these items, the next, need."""
        wanted = self.feed.wanted(np.arange(items.start, items.stop))
        share = slice(self.share.first, self.share.stop)
        ids, epochs = wanted.ids[:, share], wanted.epochs[:, share]
        self._wanted += zip(ids, epochs, strict=True)
        self._planned = items.stop

        own = np.arange(share.start, share.stop) < self.feed.batch
        guests = _keys(epochs[:, ~own], ids[:, ~own])  # each comes for its item alone
        missing = [key for key in _keys(epochs[:, own], ids[:, own]) if key not in self._asked]
        at_once = items.start < self.at_once
        if not at_once and missing and len(self._asked) < self.room:
            chunks = []
            for keys in self._chunks(items.start, missing):
                if len(self._asked) + len(keys) <= self.room:
                    self._asked |= dict.fromkeys(keys)  # type: ignore[arg-type]  # below
                    chunks.append(keys)
            self._ask(self._asked, chunks, at_once)
            missing = [key for key in missing if key not in self._asked]
        self._ask(self._asked, [[key] for key in missing], at_once)
        self._ask(self._guests, [[key] for key in guests], at_once)

    def _chunks(self, item: int, missing: list[Key]) -> list[list[Key]]:
        """For each chunk of the missing: all of its samples that this worker needs at `item` or later."""
        epochs, ids = np.array(missing, np.int64).T
        first, stop = self.feed.neighbours(ids)
        chunks = np.unique(np.stack([epochs, first, stop], axis=1), axis=0)
        epochs, first, stop = chunks[chunks[:, 2] - chunks[:, 1] > 1].T
        lengths = stop - first
        ends = np.cumsum(lengths)
        ids = np.arange(lengths.sum()) + np.repeat(first - (ends - lengths), lengths)
        epochs = np.repeat(epochs, lengths)
        items, rows = self.feed.place(epochs, ids)
        needed = (items >= item) & (rows >= self.share.first) & (rows < self.share.stop)
        chunk = np.repeat(np.arange(len(lengths)), lengths)[needed]
        keys: list[list[Key]] = [[] for _ in range(len(lengths))]
        for number, key in zip(chunk.tolist(), _keys(epochs[needed], ids[needed]), strict=True):
            if key not in self._asked:
                keys[number].append(key)
        return list(filter(None, keys))

    def _ask(self, asked: dict[Key, Request], groups: list[list[Key]], at_once: bool) -> None:
        """Asks for groups of samples: each by itself where a server answers, since that takes time; else several."""
        together = 1 if self.reader.remote else _ASKED_AT_ONCE if at_once else _ASKED_TOGETHER
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
