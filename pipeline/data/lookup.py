"""The order, asked from outside: which keys a step reads, and when a key is read. Reads indexes, never images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.data.corpus import Corpus, Member, fit_order
from pipeline.data.order import SampleOrder, slot_owners
from pipeline.data.read import Reader
from pipeline.data.storage import Storage
from pipeline.data.stretches import Stretches, begun, end_of_step, of_sample, of_step
from pipeline.dataset.blob import Unreadable
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.mds_folder import MdsManifest

MAX_BATCH: Final = 2**24  # a batch's slots are listed in memory, 8 bytes each, a few times over
MAX_CONSUMED: Final = 2**63 - 1
_THREADS: Final = 16  # indexes that lie elsewhere are waited for together


@dataclass(frozen=True)
class Course:
    """A run, as far as its order goes. Without `epochs` and `steps` it goes on for ever."""

    batch_size: int
    seed: int
    epochs: int | None = None
    steps: int | None = None
    known: SampleOrder | None = None  # of a run that has begun
    past: Stretches = ()  # the same run's, up to its newest checkpoint and on from there

    def order(self, corpus: Corpus) -> SampleOrder:
        """Raises UsageError."""
        if self.batch_size > MAX_BATCH:
            most = f"at most {MAX_BATCH}, as order lists a batch's slots in memory"
            raise UsageError(f"--batch-size {self.batch_size}: {most}")
        if corpus.samples == 0:
            raise UsageError(f"{corpus}: holds no samples")
        return self.known or fit_order(corpus, self.batch_size, self.seed)

    @property
    def stretches(self) -> Stretches:
        return self.past or begun(self.batch_size)

    def total(self, corpus: Corpus) -> int | None:
        """Samples that the whole run reads, repeats included."""
        if self.epochs is not None:
            return self.epochs * corpus.samples
        return None if self.steps is None else self.stretches[-1].consumed_before(self.steps + 1)

    @property
    def length(self) -> str:
        """As the user gave it."""
        return f"--epochs {self.epochs}" if self.epochs is not None else f"{self.steps} steps"


def keys_of_step(corpus: Corpus, course: Course, step: int, world_size: int, rank: int | None) -> dict[str, Any]:
    """{"step", "epoch", "keys"}: the keys of step `step` (from 1), in slot order; of one rank, or of the whole batch.

    `epoch` is that of the batch's first sample, as in metrics.jsonl: it counts all datasets' samples together; a batch
    may cross into the next. The last step of a run that ends is as long as what is left.

    Raises:
        UsageError: no run has such a step, or this one has not.
        WorkFailed: an index cannot be used.
    """
    order, total, stretch = course.order(corpus), course.total(corpus), of_step(course.stretches, step)
    batch_size, consumed = stretch.batch_size, stretch.consumed_before(step)
    if consumed + batch_size > MAX_CONSUMED:
        raise _uncountable(f"--step {step}")
    end = end_of_step(course.stretches, step)
    left = end - consumed if total is None else min(end, total) - consumed
    if total is not None and left <= 0:
        raise UsageError(f"--step {step}: a run of {course.length} ends with step {stretch.place(total - 1)[0]}")
    slots = np.arange(batch_size, dtype=np.int64)
    if rank is not None:
        slots = slots[slot_owners(batch_size, world_size, order.lanes) == rank]
    _, ids = order.at(consumed + slots[slots < left])
    return {"step": step, "epoch": consumed // corpus.samples, "keys": keys_of(corpus, ids)}


def place_of_key(corpus: Corpus, course: Course, key: str, epoch: int, world_size: int) -> dict[str, Any]:
    """{"key", "epoch", "step", "rank", "slot"}: where a run reads this sample in that epoch.

    In a mixture the epoch is that of the sample's own dataset. Of several datasets, it says in which "dataset" the
    sample lies; where more than one has it, "others" are {"dataset", "step", "rank", "slot"} of the further ones.

    Raises:
        UsageError: no dataset has such a key, or the run no such epoch.
        WorkFailed: an index cannot be used.
    """
    order, total = course.order(corpus), course.total(corpus)
    if corpus.parts == 1 and course.epochs is not None and epoch >= course.epochs:
        last = course.epochs - 1
        raise UsageError(f"--epoch {epoch}: the last of --epochs {course.epochs} is {last}, the first is 0")
    # Before all indexes are searched. Of a mixture, a part may come to this epoch before counting ends, another not.
    counted = [order.used(part, MAX_CONSUMED) // order.part_samples(part) > epoch for part in range(corpus.parts)]
    places = _find(corpus, key) if any(counted) else []
    places = [(member, sample) for member, sample in places if counted[int(order.part_of(np.array([sample]))[0])]]
    if not places:
        raise _uncountable(f"--epoch {epoch}")
    consumed = order.when(np.full(len(places), epoch), np.array([sample for _, sample in places])).tolist()
    found = []
    for (member, _), at in sorted(zip(places, consumed, strict=True), key=lambda each: each[1]):
        if total is None or at < total:
            stretch = of_sample(course.stretches, at)
            step, slot = stretch.place(at)
            owners = slot_owners(stretch.batch_size, world_size, order.lanes)
            dataset = {"dataset": str(corpus.members[member].location)} if len(corpus.members) > 1 else {}
            found.append(dataset | {"step": step, "rank": int(owners[slot]), "slot": slot})
    if not found:
        raise UsageError(f"--epoch {epoch}: a run of {course.length} ends before it reads {key} in that epoch")
    return {"key": key, "epoch": epoch} | found[0] | ({"others": found[1:]} if found[1:] else {})


def keys_of(corpus: Corpus, ids: np.ndarray) -> list[str]:
    """The key of each sample. Neighbours are asked for together: of an index elsewhere, a batch of rows comes once."""
    reader, ascending = Reader(corpus), np.argsort(ids)

    def locate(sample: int) -> str:
        try:
            return reader.key(sample)
        except Unreadable as error:
            member = corpus.members[int(np.searchsorted(corpus.starts, sample, side="right")) - 1]
            raise _unreadable(member, reader.hole(sample, "").shard, str(error)) from None

    def locate_all(some: np.ndarray) -> list[str]:
        return [locate(sample) for sample in ids[some].tolist()]

    keys = np.empty(len(ids), object)
    with ThreadPoolExecutor(_THREADS) as pool:
        keys[ascending] = [key for some in pool.map(locate_all, np.array_split(ascending, _THREADS)) for key in some]
    return keys.tolist()


def _find(corpus: Corpus, key: str) -> list[tuple[int, int]]:
    """(number of the dataset, global id) of the sample in each dataset that has it. Raises UsageError if none has."""
    found = []
    members = corpus.members if key.isascii() else ()  # as every key is: others Arrow may refuse
    for number, member in enumerate(members):
        position = _find_in(member, key)
        if position is not None:
            found.append((number, int(corpus.starts[number]) + position))
    if not found:
        mds = any(isinstance(member.manifest, MdsManifest) for member in corpus.members)
        raise UsageError(
            f"--key {key}: {corpus} has no such sample" + ("" if mds else "; samples.parquet lists them all")
        )
    return found


def _find_in(member: Member, key: str) -> int | None:
    """The sample's number in a dataset, all of whose indexes may have to be searched."""
    storage, manifest = Storage(member.location, member.manifest), member.manifest

    def search(shard: int) -> int | None:
        try:
            return storage.index(shard).find(key)
        except Unreadable as error:
            raise _unreadable(member, manifest.shards[shard].name, str(error)) from None

    pool = ThreadPoolExecutor(_THREADS)
    try:
        rows = enumerate(pool.map(search, range(len(manifest.shards))))
        return next((int(manifest.starts[shard]) + row for shard, row in rows if row is not None), None)
    finally:
        pool.shutdown(cancel_futures=True)


def _unreadable(member: Member, shard: str, cause: str) -> WorkFailed:
    """An index that cannot be had ends the search, and is no hole."""
    return WorkFailed(f"{member.location}: {shard}: {cause}", cause="data")


def _uncountable(option: str) -> UsageError:
    return UsageError(f"{option}: no run reads that many samples")
