"""What a stream must deliver: sums over any stretch of a run, from one undisturbed reader that takes few at a time."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from pipeline.config import Augment
from pipeline.data.batch import MicroBatch
from pipeline.data.feed import TrainFeed
from pipeline.data.ledger import ROW, Account
from pipeline.data.order import Order
from pipeline.dataset.keys import MASK64
from tests.reading import recipe_of, run_loader

Rows = dict[Account, list[int]]  # the ledger's, by account


@dataclass(frozen=True)
class Stretch:
    """Samples [start, stop) of a run, in counts of consumed samples, as they were read."""

    start: int
    stop: int
    rows: Rows
    mixed: int  # sum of hashes of what Mixup and CutMix make of each image

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Stretch":
        """Inverse of `to_json`."""
        rows = {Account.of(name): row for name, row in body["rows"].items()}
        return cls(body["start"], body["stop"], rows, body["mixed"])

    def to_json(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "stop": self.stop,
            "rows": {str(account): row for account, row in self.rows.items()},
            "mixed": self.mixed,
        }


def together(stretches: Iterable[Stretch]) -> Stretch:
    """One after the other, or the ranks' shares of the same: sums modulo 2**64."""
    stretches = list(stretches)
    rows: Rows = {}
    for stretch in stretches:
        for account, row in stretch.rows.items():
            total = rows.get(account, [0] * ROW)
            rows[account] = [(a + b) & MASK64 for a, b in zip(total, row, strict=True)]
    start, stop = min(s.start for s in stretches), max(s.stop for s in stretches)
    return Stretch(start, stop, rows, sum(s.mixed for s in stretches) & MASK64)


def stretch_of(feed: TrainFeed, step: int, batches: list[MicroBatch]) -> Stretch:
    """A rank's share of a feed's step."""
    start = feed.consumed_before(step)
    accounts = feed.accounts(step * feed.accumulation)
    numbers = sum(batch.rows for batch in batches).tolist()
    rows = {Account(*account): [n & MASK64 for n in row] for account, row in zip(accounts, numbers, strict=True)}
    return Stretch(start, start + feed.count(step), rows, sum(map(_mixed, batches)) & MASK64)


def _mixed(batch: MicroBatch) -> int:
    if batch.mix is None:
        return 0
    images, mix, total = batch.images.numpy(), batch.mix, 0
    for row in np.flatnonzero(batch.weights.numpy()).tolist():
        hashed = xxhash.xxh3_64(images[row].tobytes())
        for part in (images[int(mix.partner[row])], mix.lam[row].numpy(), mix.box[row].numpy()):
            hashed.update(part.tobytes())
        total += hashed.intdigest()
    return total


@dataclass(frozen=True)
class Truth:
    """The stretches of one reader, `length` samples each."""

    length: int
    stretches: tuple[Stretch, ...]

    def between(self, start: int, stop: int, without: frozenset[int] = frozenset()) -> Stretch:
        """What was read of [start, stop), which are multiples of the length, but for some stretches' numbers."""
        numbers = range(start // self.length, -(-stop // self.length))
        return together(self.stretches[n] for n in numbers if n not in without)


def truth_of(dataset: Path, order: Order, augment: Augment, size: int, epochs: int, length: int) -> Truth:
    """One process, no workers, one rank, `length` samples at a time. An even length keeps Mixup's pairs together."""
    total = epochs * order.samples
    feed = TrainFeed(order, length, 1, 0, length, 0, total, augment.mixes)
    made = run_loader(recipe_of(dataset, feed, size, augment, pixel_digest=True))
    with torch.inference_mode():
        return Truth(length, tuple(stretch_of(feed, step, [batch]) for step, batch in enumerate(made)))
