"""A rank's micro-batches, for teams that have mosaicml-streaming already. Which sample comes when, and how shards are
fetched, is theirs; decoding, augmentation and the ledger are ours.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pipeline.config import Config
from pipeline.data.batch import MicroBatch, Mix, StageTimes
from pipeline.data.corpus import Member
from pipeline.data.giving_up import LOOK_S, GaveUp, GiveUp, never
from pipeline.data.keyed import mix64
from pipeline.data.ledger import HOLES, HOLES_SUM, PIXELS, PLACES, READ, READ_SUM, ROW, Account
from pipeline.data.mix import mix_plan, without_holes
from pipeline.data.mosaic import workers as births
from pipeline.data.mosaic.order import MosaicFeed
from pipeline.data.ring import Ring, Shape
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.keys import MASK64, as_int64
from pipeline.dataset.mds_folder import MdsManifest
from pipeline.distributed import World


class MosaicLoader:
    """A rank's micro-batches, in mosaicml-streaming's order, on `device`. An iterator, as `Loader` is."""

    def __init__(
        self,
        config: Config,
        member: Member,
        feed: MosaicFeed,
        world: World,
        run: Path,
        state: dict[str, Any] | None,
        known_holes: dict[tuple[int, int], str],
        give_up: GiveUp = never,
    ) -> None:
        """Every rank calls it; the workers start with the first micro-batch.

        Args:
            run: the run's folder, where shards from afar are kept if there is no data.cache.
            state: of a checkpoint, as `state` gave it.
            known_holes: (epoch, sample id) -> cause, to be left out unread.
            give_up: whether waiting for workers is to end without a micro-batch.

        Raises:
            UsageError: the ranks are not laid out as it needs them; or it refuses the options.
        """
        from pipeline.data.mosaic.samples import Collate, Slots

        assert isinstance(member.manifest, MdsManifest)
        self._feed, self._augment, self._device = feed, config.augment, world.device
        self._image_size, workers = config.model.image_size, config.loader.workers
        self._pixels = config.loader.pixel_digest
        _tell_the_ranks(world)
        processes = births.start("pipeline.data.mosaic.samples")  # before it has anything in shared memory
        self._leads_node = world.rank % world.local_size == 0
        self._samples = _samples(config, member, feed, world, run)
        if state is not None:
            self._samples.load_state_dict(state)
        ahead = -(-config.loader.prefetch // (feed.accumulation * max(1, workers)))
        slots = (ahead + 2) * max(1, workers)  # of each worker: one that is used, and one to spare
        self._ring = Ring(Shape(slots, feed.per_rank, self._image_size))
        collate = Collate(
            slots=Slots(self._ring, ahead + 2),
            manifest=member.manifest,
            image_size=self._image_size,
            augment=config.augment,
            seed=config.seed,
            pixel_digest=self._pixels,
            known_holes=known_holes,
        )
        parallel = {"multiprocessing_context": processes, "worker_init_fn": births.adopt}
        parallel |= {"prefetch_factor": ahead, "persistent_workers": True}
        self._loader = DataLoader(
            self._samples, feed.per_rank, num_workers=workers, collate_fn=collate, **(parallel if workers else {})
        )
        self._give_up, self._sharing = give_up, max(1, workers)
        self._parts: Any = None  # of the epoch under way
        self._item = 0
        self._made: Any = None  # this rank's part of the step under way

    def __iter__(self) -> Iterator[MicroBatch]:
        return self

    def __next__(self) -> MicroBatch:
        """Waits for the next micro-batch.

        Raises:
            WorkFailed: a shard cannot be had or read, a worker died, or the epoch has not as many samples as it must.
            GaveUp: it did not come, and is not to be waited for.
        """
        step, micro = divmod(self._item, self._feed.accumulation)
        if step >= self._feed.steps:
            raise StopIteration
        if micro == 0:
            self._made = self._next_part(step)
        self._item += 1
        batch = self._micro_batch(step, micro)
        if self._device.type != "cuda":
            return batch
        began = time.perf_counter()
        batch = batch.to(self._device)
        batch.times.copy_s = time.perf_counter() - began
        return batch

    def state(self, steps: int) -> dict[str, Any]:
        """StreamingDataset's own, after so many steps of this feed, one or more; perhaps not the last ones taken."""
        epoch, inside = self._feed.at(steps - 1)
        inside += self._feed.count(steps - 1)
        if inside == self._feed.order.samples:  # of an epoch that is over it would make an empty one
            epoch, inside = epoch + 1, 0
        return self._samples.state_dict(inside, from_beginning=True) | {"epoch": epoch}

    def close(self) -> None:
        """Ends the workers. What it has in /dev/shm goes with this process; its lock files it would leave."""
        self._parts = self._loader = None
        if self._leads_node:
            for lock in (self._samples._shared_barrier.filelock_path, self._samples._cache_filelock_path):
                Path(lock).unlink(missing_ok=True)

    def _next_part(self, step: int) -> Any:
        epoch, inside = self._feed.at(step)
        due = self._feed.count(step) // self._feed.order.ranks
        if self._parts is None or inside == 0:
            self._expect_the_end(epoch)
            self._parts = self._begun()
        made = self._take()
        if made is None or len(made.ids) != due or made.epoch != epoch:
            got = "none" if made is None else f"{len(made.ids):,} of epoch {made.epoch}"
            say = f"mosaicml-streaming gave {got} where {due:,} samples of epoch {epoch} were due"
            raise WorkFailed(
                f"{say}: what it does is not what is known of it, or the folder has changed", "data", False
            )
        return made

    def _take(self) -> Any:
        made = self._wait()
        if made is not None and made.failed:
            message, cause, resumable = made.failed
            raise WorkFailed(message, cause=cause, resumable=resumable)
        return made

    def _begun(self) -> Any:
        """An epoch's parts. Its beginning may take as long as it takes; then the workers are waited for in small bits.

        A DataLoader's own `timeout` would be for both.
        """
        if self._parts is not None:
            self._parts._timeout = 0
        parts: Any = iter(self._loader)
        parts._timeout = LOOK_S if self._loader.num_workers else 0
        return parts

    def _wait(self) -> Any:
        while True:
            try:
                return next(self._parts, None)
            except (RuntimeError, EOFError, OSError) as error:  # what a DataLoader says of a dead worker
                if "timed out" not in str(error):  # and of one that needs longer, upon which it may be asked again
                    raise WorkFailed(f"loader: {_line(error)}; often that is memory that ran out") from None
            if self._give_up():
                raise GaveUp

    def _expect_the_end(self, epoch: int) -> None:
        if self._parts is not None and self._take() is not None:
            raise WorkFailed(f"mosaicml-streaming gave more samples than epoch {epoch - 1} has", "data", False)

    def _micro_batch(self, step: int, micro: int) -> MicroBatch:
        made, size = self._made, self._feed.batch
        slot, rows = self._ring.slot(made.slot), slice(micro * size, min((micro + 1) * size, len(made.ids)))
        images, labels, weights = (_filled(array[rows], size) for array in (slot.images, slot.labels, slot.weights))
        account = Account(0, made.epoch)
        first = self._item_of_rank(step) + rows.start
        times = StageTimes()
        if micro == 0:  # each of the workers makes another step meanwhile
            times = StageTimes(made.read_s / self._sharing, made.decode_s / self._sharing, images=len(made.ids))
        return MicroBatch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(labels),
            weights=torch.from_numpy(weights),
            rows=torch.tensor([self._counts(first, rows)]),
            holes=[(account, hole) for row, hole in made.holes if rows.start <= row < rows.stop],
            times=times,
            mix=self._mix(step, rows, weights) if self._augment.mixes else None,
        )

    def _item_of_rank(self, step: int) -> int:
        """Samples of the epoch that each rank had before a step."""
        return self._feed.at(step)[1] // self._feed.order.ranks

    def _counts(self, first: int, rows: slice) -> list[int]:
        """The ledger's row of some of the step's samples; of repeats, the places do not count."""
        made, order, counts = self._made, self._feed.order, [0] * ROW
        number = max(0, rows.stop - rows.start)
        again = order.is_repeat(order.places(self._feed.rank, first, number))
        places = np.where(again, 0, mix64(np.array(made.ids[rows], np.uint64))).tolist()
        holes = {row for row, _ in made.holes}
        for n, place in zip(range(rows.start, rows.stop), places, strict=True):
            count, total = (HOLES, HOLES_SUM) if n in holes else (READ, READ_SUM)
            counts[count] += 1
            counts[total] += made.key_hashes[n]
            counts[PLACES] += place
            counts[PIXELS] += made.pixel_hashes[n]
        return [as_int64(number & MASK64) for number in counts]

    def _mix(self, step: int, rows: slice, weights: np.ndarray) -> Mix:
        """Pairs are neighbours in the micro-batch: unlike ours, they depend on the number of ranks."""
        number, own = max(0, rows.stop - rows.start), np.arange(self._feed.batch)
        before = self._feed.consumed_before(step) + self._feed.rank * self._feed.per_rank + rows.start
        plan = mix_plan(self._augment, self._feed.order.seed, before + own, own, number, self._image_size)
        partner = np.where(plan.partner_slot < 0, own, plan.partner_slot)
        lam, box, partner = without_holes(plan.lam, plan.box, partner, weights > 0)
        return Mix(torch.from_numpy(partner), torch.from_numpy(lam), torch.from_numpy(box))


def _tell_the_ranks(world: World) -> None:
    """Sets what it reads of the environment, from which it takes that nodes have as many ranks, one after the other.

    Raises:
        UsageError: on all ranks, where that is not so.
    """
    hosts = world.all_gather(world.host)
    blocks = [hosts[first : first + world.local_size] for first in range(0, world.size, world.local_size)]
    if any(set(block) != {block[0]} or hosts.count(block[0]) != world.local_size for block in blocks):
        raise UsageError("loader.name: mosaic: needs the same number of ranks on every node, numbered node by node")
    os.environ.update(LOCAL_WORLD_SIZE=str(world.local_size), LOCAL_RANK=str(world.rank % world.local_size))


def _samples(config: Config, member: Member, feed: MosaicFeed, world: World, run: Path) -> Any:
    """Its dataset. Raises UsageError where it refuses the options."""
    from pipeline.data.mosaic.samples import Samples

    place, cache = member.location, config.data.cache
    options: dict[str, Any] = {"local": str(place)}
    if place.is_remote or cache is not None:  # it keeps whole shards, in a folder per node that is nobody else's
        folder = run / "mosaic" / f"node-{world.rank // world.local_size}"
        if cache is not None:
            folder = cache.dir / f"mosaic-{member.manifest.fingerprint[:16]}"
        options = {
            "local": str(folder),
            "remote": place.text if place.is_remote else str(place.path.absolute()),
            "cache_limit": cache and cache.bytes,
        }
    try:
        return Samples(
            **options,
            batch_size=feed.per_rank,
            shuffle=True,
            shuffle_seed=config.seed,
            num_canonical_nodes=feed.order.canonical,
        )
    except (ValueError, RuntimeError, OSError) as error:
        if "Reused local directory" in str(error):
            raise UsageError(
                f"data.cache: {options['local']} is in use by another run; if none is under way, one that was killed "
                "has left its files: remove /dev/shm/0*_* and /tmp/0*_filelock"
            ) from None
        raise UsageError(f"loader.name: mosaic: mosaicml-streaming refuses: {_line(error)}") from None


def _line(error: Exception) -> str:
    """The first of what it says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    """With zeros up to so many rows: padding has weight 0."""
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
