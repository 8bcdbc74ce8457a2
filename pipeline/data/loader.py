"""Steps -> micro-batches, through torch's DataLoader.

A micro-batch is a pure function of (feed, step, micro-step), so it may be made by any worker process of any
attempt; torch's DataLoader gives them back in order. Workers therefore change the speed and nothing else.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import Augment, Loader
from pipeline.data import nursery
from pipeline.data.augment import centre_boxes, training_boxes
from pipeline.data.decode import crop_resize
from pipeline.data.ledger import HOLES, HOLES_SUM, READ, READ_SUM, ROW, epochs_touched
from pipeline.data.order import Order, slot_owners
from pipeline.data.read import DatasetReader, Hole, Sample
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.keys import MASK64, as_int64
from pipeline.dataset.manifest import Manifest

STALL_S = 1800  # a micro-batch that takes longer is a storage that has gone
NO_SAMPLE = -1  # in place of a sample id: padding


@dataclass(frozen=True)
class Feed:
    """Which samples one rank reads from here to the end of the run. Closed form; the same on every machine."""

    order: Order
    batch_size: int  # global
    world_size: int
    rank: int
    micro_batch_limit: int  # samples at once on this rank
    consumed: int  # samples used before this feed begins
    total: int  # samples of the whole run

    @property
    def steps(self) -> int:
        """Steps from here to the end; the last may be partial."""
        return -(-(self.total - self.consumed) // self.batch_size)

    @cached_property
    def slots(self) -> np.ndarray:
        """int64 [accumulation, micro_batch]: this rank's slots of every global batch, padded with -1."""
        owners = slot_owners(self.batch_size, self.world_size, self.order.lanes)
        mine = np.flatnonzero(owners == self.rank)
        most = -(-self.batch_size // self.world_size)
        accumulation = -(-most // self.micro_batch_limit)
        micro_batch = -(-most // accumulation)
        padded = np.full(accumulation * micro_batch, NO_SAMPLE, np.int64)
        padded[: len(mine)] = mine
        return padded.reshape(accumulation, micro_batch)

    @property
    def accumulation(self) -> int:
        return self.slots.shape[0]

    def consumed_before(self, step: int) -> int:
        """Samples used when the feed's step `step` (from 0) begins."""
        return self.consumed + step * self.batch_size

    def count(self, step: int) -> int:
        """Samples of the global batch: the batch size, but for a partial last step."""
        return min(self.batch_size, self.total - self.consumed_before(step))

    def positions(self, step: int, micro: int) -> np.ndarray:
        """int64 [micro_batch]: counts of consumed samples to give to the order, or -1 for padding."""
        slots = self.slots[micro]
        used = (slots != NO_SAMPLE) & (slots < self.count(step))
        return np.where(used, self.consumed_before(step) + slots, NO_SAMPLE)


@dataclass
class MicroBatch:
    """What one forward pass takes. A hole or a padding slot has weight 0, label 0 and black pixels."""

    images: Tensor  # uint8 [B, S, S, 3]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B]: 1 or 0
    rows: Tensor  # int64 [epochs touched by the global batch, 4]: the ledger's
    holes: list[tuple[int, Hole]]  # (epoch, hole)

    def pin_memory(self) -> "MicroBatch":
        """Called by the DataLoader where there is a GPU."""
        for name in ("images", "labels", "weights", "rows"):
            setattr(self, name, getattr(self, name).pin_memory())
        return self

    def to(self, device: torch.device) -> "MicroBatch":
        images, labels, weights, rows = (
            t.to(device, non_blocking=True) for t in (self.images, self.labels, self.weights, self.rows)
        )
        return MicroBatch(images, labels, weights, rows, self.holes)


class _Batches(Dataset, ABC):
    """Shared by training and evaluation: sample ids and boxes in, a micro-batch out."""

    def __init__(self, dataset: Path, manifest: Manifest, image_size: int) -> None:
        self.dataset, self.manifest, self.image_size = dataset, manifest, image_size

    @cached_property
    def reader(self) -> DatasetReader:
        return DatasetReader(self.dataset, self.manifest)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "reader"}

    @abstractmethod
    def _boxes(self, epochs: np.ndarray, ids: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int64 boxes [n, 4], bool flips [n]) of samples of `sizes` (int64 [n, 2])."""

    def _make(self, ids: np.ndarray, epochs: np.ndarray, touched: range) -> MicroBatch:
        """Reads, decodes and accounts for the samples `ids` ([B], -1 for padding), each in its slot."""
        size = self.image_size
        images = np.zeros((len(ids), size, size, 3), np.uint8)
        labels, weights = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.float32)
        rows = [[0] * ROW for _ in touched]
        holes: list[tuple[int, Hole]] = []

        used = np.flatnonzero(ids != NO_SAMPLE)
        found = {int(slot): self.reader.read(int(ids[slot])) for slot in used}
        good = [slot for slot, sample in found.items() if isinstance(sample, Sample)]
        sizes = np.array([(found[s].row.width, found[s].row.height) for s in good], np.int64).reshape(-1, 2)
        boxes, flips = self._boxes(epochs[good], ids[good], sizes)
        for slot, box, flip in zip(good, boxes, flips, strict=True):
            sample = found[slot]
            try:
                pixels = crop_resize(sample.data, (sample.row.width, sample.row.height), box, size)
            except ImageError as error:
                found[slot] = self.reader.hole(int(ids[slot]), str(error))
                continue
            images[slot] = pixels[:, ::-1] if flip else pixels
            labels[slot], weights[slot] = sample.label, 1.0
        for slot, sample in found.items():
            epoch = int(epochs[slot])
            count, total = (READ, READ_SUM) if isinstance(sample, Sample) else (HOLES, HOLES_SUM)
            row = rows[epoch - touched.start]
            row[count] += 1
            row[total] = (row[total] + sample.key_hash) & MASK64
            if isinstance(sample, Hole):
                holes.append((epoch, sample))
        ledger = torch.tensor([[as_int64(number) for number in row] for row in rows])
        return MicroBatch(*map(torch.from_numpy, (images, labels, weights)), ledger, holes)


class TrainBatches(_Batches):
    """Item step * accumulation + micro: that micro-batch of this rank."""

    def __init__(self, dataset: Path, manifest: Manifest, image_size: int, feed: Feed, augment: Augment) -> None:
        super().__init__(dataset, manifest, image_size)
        self.feed, self.augment = feed, augment

    def __len__(self) -> int:
        return self.feed.steps * self.feed.accumulation

    def __getitem__(self, item: int) -> MicroBatch:
        step, micro = divmod(item, self.feed.accumulation)
        positions = self.feed.positions(step, micro)
        used = positions != NO_SAMPLE
        ids = np.where(used, self.feed.order.ids(np.maximum(positions, 0)), NO_SAMPLE)
        epochs = np.maximum(positions, 0) // self.manifest.samples
        touched = epochs_touched(self.feed.consumed_before(step), self.feed.count(step), self.manifest.samples)
        return self._make(ids, epochs, touched)

    def _boxes(self, epochs: np.ndarray, ids: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return training_boxes(self.augment, self.feed.order.seed, epochs, ids, sizes)


class EvaluationBatches(_Batches):
    """Every sample of a dataset once, in order, dealt to ranks in blocks of equal length, padded at the end."""

    def __init__(
        self, dataset: Path, manifest: Manifest, image_size: int, crop: float, batch_size: int, world: tuple[int, int]
    ) -> None:
        super().__init__(dataset, manifest, image_size)
        self.crop = crop
        self.rank, world_size = world
        self.per_rank = -(-manifest.samples // world_size)
        self.batch_size = min(batch_size, self.per_rank)

    def __len__(self) -> int:
        return -(-self.per_rank // self.batch_size)

    def __getitem__(self, item: int) -> MicroBatch:
        ids = self.rank * self.per_rank + np.arange(item * self.batch_size, (item + 1) * self.batch_size)
        mine = (ids < (self.rank + 1) * self.per_rank) & (ids < self.manifest.samples)
        return self._make(np.where(mine, ids, NO_SAMPLE), np.zeros(len(ids), np.int64), range(1))

    def _boxes(self, epochs: np.ndarray, ids: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return centre_boxes(sizes, self.crop), np.zeros(len(ids), bool)


def load(batches: TrainBatches | EvaluationBatches, loader: Loader, pin_memory: bool) -> Iterator[MicroBatch]:
    """The items of `batches` in order, made ahead by the loader's worker processes, which start now.

    Raises:
        WorkFailed: while iterating, where a shard's index cannot be read.
    """
    workers = min(loader.workers, len(batches))
    warnings.filterwarnings(
        "ignore", message="This DataLoader will create"
    )  # more workers than cores is the user's say
    items = iter(
        DataLoader(
            _Guarded(batches),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=nursery.CONTEXT if workers else None,
            prefetch_factor=loader.prefetch if workers else None,
            timeout=STALL_S if workers else 0,
            pin_memory=pin_memory,
            worker_init_fn=nursery.adopt,
            collate_fn=_as_it_is,
        )
    )
    return map(_unguarded, items)


class _Guarded(Dataset):
    """Hands a failure over as a value: raised in a worker, torch would turn it into a page of its own traceback."""

    def __init__(self, batches: TrainBatches | EvaluationBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> MicroBatch | WorkFailed:
        try:
            return self.batches[item]
        except WorkFailed as failure:
            return failure


def _unguarded(item: MicroBatch | WorkFailed) -> MicroBatch:
    if isinstance(item, WorkFailed):
        raise item
    return item


def _as_it_is(item: MicroBatch | WorkFailed) -> MicroBatch | WorkFailed:
    return item
