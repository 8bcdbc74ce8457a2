"""In a process of mosaicml-streaming's loader: its StreamingDataset as it is, and what we make of its samples.

It says which sample comes next, fetches shards and reads samples out of them; keys, labels, pixels are ours.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np
import xxhash
from streaming import StreamingDataset
from torch.utils.data import get_worker_info

from pipeline.config import Augment
from pipeline.data.augment import apply, draw, training_boxes
from pipeline.data.decode import crop_resize
from pipeline.data.ring import Ring, Shape
from pipeline.data.sample import Hole
from pipeline.dataset.blob import BytesBlob, Unreadable
from pipeline.dataset.containers import Packed
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.images import ImageError, read_header
from pipeline.dataset.keys import key_hash, own_key
from pipeline.dataset.mds_folder import MdsFolderFile, MdsManifest
from pipeline.dataset.row import IndexRow


class Raw(NamedTuple):
    """A sample as it lies in its shard."""

    epoch: int
    id: int  # counted through the folder's shards, in the order of index.json
    data: bytes
    read_s: float


class Samples(StreamingDataset):
    """A StreamingDataset that gives samples undecoded, and that says why where it cannot go on (a text, the last item).

    Left alone, it ends an epoch early and without a word when one of its threads fails.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failure: BaseException | None = None
        for shard in self.shards:
            shard.decode_sample = bytes

    def get_item(self, sample_id: int, retry: int = 7) -> tuple[int, bytes]:
        return int(sample_id), super().get_item(sample_id, retry)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception as error:
            raise RuntimeError(f"{self.shards[shard_id].raw_data.basename} cannot be had ({error})") from error

    def on_exception(self, future: Future) -> None:
        """Called when one of its threads has ended."""
        if error := future.exception():
            self.failure = error
            self._event.set()

    def __iter__(self) -> Iterator[Raw | str]:  # type: ignore[override]
        samples = super().__iter__()
        try:
            while True:
                began = time.perf_counter()
                found = next(samples, None)
                if found is None:
                    break
                yield Raw(self.next_epoch - 1, *found, time.perf_counter() - began)
        except GeneratorExit:
            self._event.set()  # its threads would wait for ever for someone to take their samples
            raise
        except Exception as error:
            self.failure = self.failure or error
        if self.failure:
            yield (str(self.failure) or type(self.failure).__name__).splitlines()[0]


@dataclass
class Made:
    """A rank's part of a step, or why there is none. Its pixels, labels and weights are in a slot of the ring.

    So what a DataLoader's queue carries is short: of a long one, a worker that is killed could leave a half, for whose
    end the rank would wait for ever.
    """

    failed: tuple[str, str, bool] | None = None  # message, cause, resumable
    epoch: int = 0
    slot: int = 0
    ids: tuple[int, ...] = ()
    key_hashes: tuple[int, ...] = ()
    pixel_hashes: tuple[int, ...] = ()
    holes: tuple[tuple[int, Hole], ...] = ()  # row
    read_s: float = 0.0
    decode_s: float = 0.0


@dataclass
class Slots:
    """A ring, of which each worker has so many slots of its own. It goes along to a process that is being started."""

    ring: Ring
    each: int
    used: int = 0  # by this process

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (self.ring.shape, self.each, reduction.DupFd(self.ring.fd))

    def next(self) -> int:
        """The number of the slot that this worker used longest ago."""
        worker = get_worker_info()
        number, self.used = self.used % self.each, self.used + 1
        return number + (worker.id * self.each if worker else 0)


def _inherited(shape: Shape, each: int, fd: Any) -> Slots:
    return Slots(Ring(shape, fd.detach()), each)


@dataclass(frozen=True)
class Collate:
    """Makes a rank's part of a step out of its samples. What a sample becomes depends on nothing else."""

    slots: Slots
    manifest: MdsManifest
    image_size: int
    augment: Augment
    seed: int
    pixel_digest: bool
    known_holes: dict[tuple[int, int], str]  # (epoch, id) -> cause

    def __call__(self, found: list[Raw | str]) -> Made:
        if isinstance(found[-1], str):
            return Made((f"mosaicml-streaming cannot go on: {found[-1]}", "data", True))
        try:
            return self._made([raw for raw in found if isinstance(raw, Raw)])
        except WorkFailed as error:
            return Made((str(error), error.cause, error.resumable))

    def _made(self, found: list[Raw]) -> Made:
        began = time.perf_counter()
        samples = [self._opened(raw) for raw in found]
        ids, epochs = (
            np.array(column, np.int64) for column in zip(*((raw.id, raw.epoch) for raw in found), strict=True)
        )
        sizes = np.array([(1, 1) if isinstance(s, Hole) else s[1] for s in samples], np.int64)
        boxes, flips = training_boxes(self.augment, self.seed, epochs, ids, sizes)
        draws = draw(self.augment, self.seed, epochs, ids, self.image_size)
        number, hashes = self.slots.next(), [0] * len(found)
        slot = self.slots.ring.slot(number)
        images, labels = slot.images, slot.labels
        images[: len(found)], labels[: len(found)] = 0, 0
        for n, sample in enumerate(samples):
            if isinstance(sample, Hole):
                continue
            packed, size = sample
            try:
                images[n] = apply(crop_resize(packed.data, size, boxes[n], self.image_size, bool(flips[n])), draws, n)
            except ImageError as error:
                samples[n] = self._hole(found[n].id, packed.key, str(error))
                continue
            (labels[n],) = packed.labels
            if self.pixel_digest:
                hashes[n] = xxhash.xxh3_64_intdigest(images[n], packed.labels[0])
        slot.weights[: len(found)] = [not isinstance(sample, Hole) for sample in samples]
        return Made(
            epoch=found[0].epoch,
            slot=number,
            ids=tuple(ids.tolist()),
            key_hashes=tuple(s.key_hash if isinstance(s, Hole) else key_hash(s[0].key) for s in samples),
            pixel_hashes=tuple(hashes),
            holes=tuple((n, sample) for n, sample in enumerate(samples) if isinstance(sample, Hole)),
            read_s=sum(raw.read_s for raw in found),
            decode_s=time.perf_counter() - began,
        )

    def _opened(self, raw: Raw) -> tuple[Packed, tuple[int, int]] | Hole:
        """A sample and its image's (width, height). Raises WorkFailed for a class that nobody has named."""
        shard, position = self._place(raw.id)
        own = own_key(self.manifest.shards[shard].name, str(position))
        if cause := self.known_holes.get((raw.epoch, raw.id)):
            return self._hole(raw.id, own, cause)
        blob = BytesBlob(f"sample {position}", raw.data)
        try:
            packed = MdsFolderFile(blob, self.manifest, shard).read(IndexRow(own, 0, len(raw.data), (), 0, 0))
            header = read_header(packed.data)
        except (Unreadable, ImageError) as error:
            return self._hole(raw.id, own, str(error))
        return packed, (header.width, header.height)

    def _hole(self, sample_id: int, key: str, cause: str) -> Hole:
        return Hole(sample_id, key, key_hash(key), self.manifest.shards[self._place(sample_id)[0]].name, -1, cause)

    def _place(self, sample_id: int) -> tuple[int, int]:
        """(shard, row)."""
        starts = self.manifest.starts
        shard = int(np.searchsorted(starts, sample_id, side="right")) - 1
        return shard, sample_id - int(starts[shard])
