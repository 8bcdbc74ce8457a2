"""A fair sample of a dataset's pictures, small enough to be part of a page.

Of N samples, n are shown, spread over all of them by a keyed hash: each has the same chance, whatever the samples'
order, and the same dataset shows the same pictures.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import simplejpeg

from data_prep.card.catalogue import damaged
from data_prep.common.workers import Advance, WorkerDied, Workers
from data_prep.shards.limits import Guard
from pipeline.dataset.containers import Unreadable, open_shard
from pipeline.dataset.images import MAX_PIXELS, ImageError, decode, read_header
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import keyed_hash
from pipeline.dataset.manifest import Container, Manifest
from pipeline.dataset.row import IndexRow

MAX_PICTURES: Final = 500
BUDGET: Final = 2_000_000  # bytes of all pictures of a page; in base64 a third more
MAX_SECONDS: Final = 60  # of processor time, for one picture
_SEED: Final = 0x6361_7264  # "card"
_SIDE: Final = 288  # pixels of the longer side
_STEPS: Final = ((288, 82), (224, 80), (176, 78), (128, 75), (96, 70), (64, 60), (48, 40))  # pixels, JPEG quality


@dataclass(frozen=True)
class PictureTask:
    """One sample that is to be shown. `dataset`: the number of the dataset among those of the card."""

    dataset: int
    sample: int
    folder: Path
    container: Container
    shard: str
    row: IndexRow
    max_pixels: int


@dataclass(frozen=True)
class Picture:
    """One sample as it is shown: a small JPEG, or why there is none."""

    dataset: int
    sample: int
    row: IndexRow
    jpeg: bytes = b""
    error: str = ""


def fair_sample(key: str, total: int, count: int) -> list[int]:
    """`count` different numbers below `total`, ascending; `key` decides which. All where there are no more.

    One number of each of `count` ranges. As the ranges may differ by one in length, they begin anywhere and close as a
    circle: averaged over where they begin, every number has the chance count / total.
    """
    count = min(count, total)
    if count == 0:
        return []
    ranges = enumerate(pairwise(n * total // count for n in range(count + 1)))
    begin = keyed_hash(key, _SEED)
    return sorted((begin + low + keyed_hash(f"{key}/{n}", _SEED) % (high - low)) % total for n, (low, high) in ranges)


def choose(folders: Sequence[Path], manifests: Sequence[Manifest], count: int) -> list[PictureTask]:
    """The samples to show of these datasets, taken as one. Raises WorkFailed where an index is damaged."""
    ends = np.cumsum([manifest.samples for manifest in manifests])
    key = "/".join(manifest.fingerprint for manifest in manifests)
    tasks = []
    for number in fair_sample(key, int(ends[-1]), count):
        dataset = int(np.searchsorted(ends, number, side="right"))
        manifest, folder = manifests[dataset], folders[dataset]
        sample = number - int(ends[dataset]) + manifest.samples
        at = int(np.searchsorted(manifest.starts, sample, side="right")) - 1
        shard = manifest.shards[at]
        index = ShardIndex(folder / "shards" / shard.index_name)
        if len(index) != shard.samples:
            raise damaged(folder, f"{shard.index_name} has {len(index):,} rows, its shard {shard.samples:,} samples")
        row = index.row(sample - int(manifest.starts[at]))
        asked = manifest.asked.get("max_pixels")
        max_pixels = max(MAX_PIXELS, asked if isinstance(asked, int) else 0)
        if row.offset + row.size > shard.bytes or any(label >= len(manifest.classes) for label in row.labels):
            raise damaged(folder, f"{shard.index_name} lists what cannot be: {row.key}")
        tasks.append(PictureTask(dataset, sample, folder, manifest.container, shard.name, row, max_pixels))
    return tasks


def make(tasks: list[PictureTask], workers: int, advance: Advance, budget: int = BUDGET) -> list[Picture]:
    """The pictures, in the order of the tasks, of at most `budget` bytes together. Raises WorkFailed."""
    by_task: dict[PictureTask, tuple[np.ndarray | None, str]] = {}
    with Workers(max(1, workers)) as pool:
        for task, result in pool.run(shrink, tasks, lambda count: None, _crashed):
            by_task[task] = result
            advance(1)
    results = [by_task[task] for task in tasks]
    pictures = [Picture(task.dataset, task.sample, task.row, error=by_task[task][1]) for task in tasks]
    jpegs: list[bytes] = []
    for side, quality in _STEPS:
        jpegs = [b"" if pixels is None else _jpeg(pixels, side, quality) for pixels, _ in results]
        if sum(map(len, jpegs)) <= budget:
            break
    return [replace(picture, jpeg=jpeg) for picture, jpeg in zip(pictures, jpegs, strict=True)]


def shrink(task: PictureTask, advance: Advance) -> tuple[np.ndarray | None, str]:
    """In a worker: uint8 [height, width, 3] of at most _SIDE pixels a side, or why there is none."""
    row = task.row
    try:
        file = open_shard(task.container, task.folder / "shards" / task.shard)
        try:
            data = file.read(row).data
        finally:
            file.close()
        with tempfile.TemporaryDirectory() as folder, Guard(Path(folder) / "guard", MAX_SECONDS) as guard:
            guard.at(0)
            header = read_header(data, task.max_pixels)
            scale = min(1.0, _SIDE / max(header.width, header.height))
            small = decode(data, header, max(1, round(header.width * scale)), max(1, round(header.height * scale)))
            return _fit(small, _SIDE), ""
    except (Unreadable, ImageError) as error:
        return None, str(error)
    except OSError as error:
        return None, f"{task.shard} cannot be read: {error.strerror}"
    except (MemoryError, cv2.error):
        return None, "needs too much memory"


def _fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """Made smaller, never larger, until no side is longer than `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(width, height)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _jpeg(pixels: np.ndarray, side: int, quality: int) -> bytes:
    small = np.ascontiguousarray(_fit(pixels, side))
    return simplejpeg.encode_jpeg(small, quality=quality, colorsubsampling="420", fastdct=False)


def _crashed(task: PictureTask, death: WorkerDied) -> tuple[np.ndarray | None, str]:
    reason = f"takes longer than {MAX_SECONDS} s" if death.timed_out else f"a process that decoded it {death.how}"
    return None, reason
