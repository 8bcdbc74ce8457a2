"""Whole DATASETs for the tests, from the format's own primitives: real tars, indexes and manifest, in milliseconds."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import xxhash

from pipeline.dataset.index import ShardIndex, write_index
from pipeline.dataset.keys import hex64, key_sum, sample_key
from pipeline.dataset.manifest import Manifest, Shard, write_manifest
from pipeline.dataset.row import IndexRow
from tests.images import photo


@dataclass(frozen=True)
class Entry:
    """One sample as it goes into a tar."""

    key: str
    data: bytes  # encoded
    label: int | tuple[int, ...]  # several: of a dataset of several labels per image
    width: int  # upright
    height: int
    suffix: str = "jpg"


def make_dataset(
    path: Path,
    samples: int,
    classes: int = 5,
    shards: int | Sequence[int] = 3,
    size: tuple[int, int] = (64, 48),
    seed: int = 0,
) -> Manifest:
    """A DATASET of `samples` JPEG photos in `path`; equal arguments give equal bytes.

    Args:
        path: made if missing.
        samples: sample i is of class i % classes.
        classes: named class-00, ...; each photo is mostly its class's, so a model can learn them.
        shards: how many, of about equal length, or the length of each.
        size: width and height.
        seed: of pixels and keys.
    """
    lengths = shards
    if isinstance(shards, int):
        lengths = [samples * (n + 1) // shards - samples * n // shards for n in range(shards)]
    assert sum(lengths) == samples
    entries = (photo_entry(number, number % classes, size, seed) for number in range(samples))
    names = tuple(f"class-{label:02d}" for label in range(classes))
    return write_dataset(path, [[next(entries) for _ in range(length)] for length in lengths], names)


def photo_entry(number: int, label: int, size: tuple[int, int], seed: int) -> Entry:
    """A JPEG that is three parts its class's photo and one part its own."""
    rng = np.random.default_rng((seed, number))
    pixels = cv2.addWeighted(photo(*size, seed=label), 0.75, photo(*size, seed=int(rng.integers(2**32))), 0.25, 0)
    key = sample_key(f"seed-{seed}/class-{label:02d}/photo-{number:05d}.jpg")
    return Entry(key, simplejpeg.encode_jpeg(pixels, quality=90, fastdct=False), label, *size)


def make_dataset_of_several(path: Path, samples: int, classes: int = 5, seed: int = 0) -> Manifest:
    """The same with any number of labels per image: sample i has its class, and each other one with a chance of 1/4."""
    rng, entries = np.random.default_rng(seed), []
    for number in range(samples):
        also = [c for c in range(classes) if rng.random() < 0.25 and c != number % classes]
        labels = () if number == 7 else (number % classes, *also)
        entries.append(replace(photo_entry(number, number % classes, (64, 48), seed), label=labels))
    return write_dataset(path, [entries[::2], entries[1::2]], tuple(f"class-{c:02d}" for c in range(classes)))


def write_dataset(path: Path, shards: Sequence[Sequence[Entry]], classes: tuple[str, ...]) -> Manifest:
    """Writes tars, indexes and manifest of these samples into `path`."""
    (path / "shards").mkdir(parents=True, exist_ok=True)
    written = tuple(_write_shard(path / "shards", number, entries) for number, entries in enumerate(shards))
    several = any(isinstance(entry.label, tuple) for entries in shards for entry in entries)
    manifest = Manifest(classes=classes, labels="multi" if several else "single", shards=written)
    write_manifest(path, manifest)
    return manifest


def _write_shard(folder: Path, number: int, entries: Sequence[Entry]) -> Shard:
    name = f"shard-{number:06d}.tar"
    rows = []
    with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            rows.append(
                IndexRow(
                    entry.key,
                    offset=tar.offset + tarfile.BLOCKSIZE,
                    size=len(entry.data),
                    labels=entry.label if isinstance(entry.label, tuple) else (entry.label,),
                    width=entry.width,
                    height=entry.height,
                )
            )
            _add(tar, f"{entry.key}.{entry.suffix}", entry.data)
            if isinstance(entry.label, tuple):
                _add(tar, f"{entry.key}.json", json.dumps({"labels": list(entry.label)}).encode())
            else:
                _add(tar, f"{entry.key}.cls", str(entry.label).encode())
    data = (folder / name).read_bytes()
    keys = key_sum(row.key for row in rows)
    shard = Shard(name, len(rows), len(data), hex64(xxhash.xxh3_64_intdigest(data)), hex64(keys))
    write_index(folder / shard.index_name, rows)
    return shard


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def damage(path: Path, first: int, every: int) -> None:
    """Of each shard of a DATASET, every so many-th sample is no image any more."""
    for tar in path.glob("shards/*.tar"):
        index = ShardIndex(tar.with_suffix(".arrow"))
        with tar.open("r+b") as file:
            for row in map(index.row, range(first, len(index), every)):
                file.seek(row.offset)
                file.write(b"\0" * row.size)
