"""The order, asked from outside: which keys a step reads, and when a key is read. Reads indexes, never images."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.data.order import Order, slot_owners
from pipeline.data.read import DatasetReader
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import Manifest

MAX_BATCH: Final = 2**24  # a batch's slots are listed in memory, 8 bytes each, a few times over


def keys_of_step(
    dataset: Path,
    manifest: Manifest,
    batch_size: int,
    step: int,
    world_size: int,
    rank: int | None,
    seed: int,
    epochs: int | None = None,
) -> dict[str, Any]:
    """{"step", "epoch", "keys"}: the keys of step `step` (from 1), in slot order; of one rank, or of the whole batch.

    `epoch` is that of the batch's first sample; a batch may cross into the next. The last step of a run of `epochs`
    epochs ends where they end.

    Raises:
        UsageError: no run has such a step, or none of `epochs` epochs has.
    """
    order = _order(dataset, manifest, batch_size, seed)
    consumed = (step - 1) * batch_size
    _countable(f"--step {step}", consumed + batch_size)
    left = batch_size if epochs is None else epochs * manifest.samples - consumed
    if left <= 0:
        steps = -(-epochs * manifest.samples // batch_size) if epochs else 0
        raise UsageError(f"--step {step}: a run of --epochs {epochs} ends with step {steps}")
    slots = np.arange(batch_size, dtype=np.int64)
    if rank is not None:
        slots = slots[slot_owners(batch_size, world_size, order.lanes) == rank]
    slots = slots[slots < left]
    reader = DatasetReader(dataset, manifest)
    keys = [reader.locate(int(sample))[1].key for sample in order.ids(consumed + slots)]
    return {"step": step, "epoch": consumed // manifest.samples, "keys": keys}


def place_of_key(
    dataset: Path,
    manifest: Manifest,
    batch_size: int,
    key: str,
    epoch: int,
    world_size: int,
    seed: int,
    epochs: int | None = None,
) -> dict[str, Any]:
    """{"key", "epoch", "step", "rank", "slot"}: where a run reads this sample in that epoch.

    Raises:
        UsageError: the dataset has no such key, or the run no such epoch.
    """
    order = _order(dataset, manifest, batch_size, seed)
    if epochs is not None and epoch >= epochs:
        raise UsageError(f"--epoch {epoch}: the last of --epochs {epochs} is {epochs - 1}, the first is 0")
    _countable(f"--epoch {epoch}", (epoch + 1) * manifest.samples)
    consumed = int(order.when(np.array([epoch]), np.array([_find(dataset, manifest, key)]))[0])
    step, slot = divmod(consumed, batch_size)
    rank = int(slot_owners(batch_size, world_size, order.lanes)[slot])
    return {"key": key, "epoch": epoch, "step": step + 1, "rank": rank, "slot": slot}


def _find(dataset: Path, manifest: Manifest, key: str) -> int:
    reader = DatasetReader(dataset, manifest)
    for number in range(len(manifest.shards) if key.isascii() else 0):  # as every key is: others Arrow may refuse
        position = reader.index(number).find(key)
        if position is not None:
            return int(manifest.starts[number]) + position
    raise UsageError(f"--key {key}: {dataset} has no such sample; samples.parquet lists them all")


def _order(dataset: Path, manifest: Manifest, batch_size: int, seed: int) -> Order:
    if batch_size > MAX_BATCH:
        raise UsageError(f"--batch-size {batch_size}: at most {MAX_BATCH}, as order lists a batch's slots in memory")
    if manifest.samples == 0:
        raise UsageError(f"{dataset}: holds no samples")
    return Order.fit(manifest.samples, batch_size, seed)


def _countable(option: str, consumed: int) -> None:
    if consumed >= 1 << 63:
        raise UsageError(f"{option}: no run reads that many samples")
