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

import numpy as np

from pipeline.data.feed import NONE, Feed, Wanted
from pipeline.data.read import Hole, Reader, Sample

Key = tuple[int, int]  # epoch of the sample's part, sample id
_LOOK_S = 1.0  # how often whoever waits looks whether there is still hope


class Request:
    """Some samples, asked for together."""

    def __init__(self) -> None:
        self.asked_at = time.monotonic()
        self.begun_at: float | None = None
        self.answer: Future[dict[int, Sample | Hole]]


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
        self._wanted: deque[Wanted] = deque()  # of those that are planned and not begun
        self._answered_at = time.monotonic()  # any request

    def begin(self, item: int) -> Wanted:
        """What an item, the next, is made of. Asks for what the items up to `item + ahead` need."""
        stop = min(item + self.ahead + 1, self.feed.items)
        while self._planned < stop:
            wanted = self.feed.wanted(self._planned)
            self._plan(self._planned, wanted)
            self._wanted.append(wanted)
            self._planned += 1
        return self._wanted.popleft()

    def take(self, epoch: int, sample_id: int, guest: bool) -> Sample | Hole:
        """A sample that was asked for; waits for it. Its bytes leave the window.

        Raises:
            WorkFailed: a shard's index cannot be used.
        """
        request = (self._guests if guest else self._asked).pop((epoch, sample_id))
        while not wait([request.answer], _LOOK_S).done:
            if self._hopeless(request):
                return Hole(sample_id, "", 0, "", -1, f"the storage has not answered for {self.hang_s:.0f} s")
        return request.answer.result().pop(sample_id)

    @property
    def samples(self) -> int:
        """How many are in memory, or asked for."""
        return len(self._asked)

    def close(self) -> None:
        """Nothing more is asked for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _hopeless(self, request: Request) -> bool:
        """Whether it has been under way for too long, or waits behind others none of which is answered."""
        now = time.monotonic()
        if request.begun_at is not None:
            return now - request.begun_at > self.hang_s
        return now - max(request.asked_at, self._answered_at) > self.hang_s

    def _plan(self, item: int, wanted: Wanted) -> None:
        at_once = item < self.at_once
        missing: list[Key] = []
        for row in range(self.share.first, self.share.stop):
            key = (int(wanted.epochs[row]), int(wanted.ids[row]))
            if key[1] == NONE:
                continue
            if row >= self.feed.batch:  # a guest comes for this item alone
                self._guests[key] = self._ask([key], at_once)
            elif key not in self._asked:
                missing.append(key)
        if not at_once and len(self._asked) < self.room:
            for keys in self._chunks(item, missing):
                self._asked |= dict.fromkeys(keys, self._ask(keys, at_once))
        for key in missing:
            if key not in self._asked:
                self._asked[key] = self._ask([key], at_once)

    def _chunks(self, item: int, missing: list[Key]) -> list[list[Key]]:
        """For each chunk of the missing: all of its samples that this worker needs at `item` or later."""
        chunks = sorted({(epoch, *self.feed.neighbours(sample)) for epoch, sample in missing})
        chunks = [chunk for chunk in chunks if chunk[2] - chunk[1] > 1]
        if not chunks:
            return []
        ids = np.concatenate([np.arange(first, stop) for _, first, stop in chunks])
        lengths = [stop - first for _, first, stop in chunks]
        epochs = np.repeat([epoch for epoch, *_ in chunks], lengths)
        items, rows = self.feed.place(epochs, ids)
        needed = (items >= item) & (rows >= self.share.first) & (rows < self.share.stop)
        found, at = [], 0
        for (epoch, *_), length in zip(chunks, lengths, strict=True):
            here = ids[at : at + length][needed[at : at + length]].tolist()
            found.append([(epoch, sample) for sample in here if (epoch, sample) not in self._asked])
            at += length
        return [keys for keys in found if keys]

    def _ask(self, keys: list[Key], at_once: bool) -> Request:
        request = Request()
        request.answer = self._pool.submit(self._read, request, keys, at_once)
        return request

    def _read(self, request: Request, keys: list[Key], at_once: bool) -> dict[int, Sample | Hole]:
        request.begun_at = time.monotonic()
        known = {key[1]: self.reader.hole(key[1], self.known_holes[key]) for key in keys if key in self.known_holes}
        try:
            return known | self.reader.read([sample for _, sample in keys if sample not in known], at_once)
        finally:
            self._answered_at = time.monotonic()
