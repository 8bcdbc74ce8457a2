"""Datasets of which every number is known: labels, pixels, bytes, duplicates, rejects."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import xxhash

from data_prep.catalog.samples import (
    CATALOGUE_NAME,
    REJECTS_NAME,
    CatalogueRow,
    Reject,
    join_rows,
    write_rejects,
    write_rows,
)
from pipeline.dataset.index import write_index
from pipeline.dataset.keys import hex64, key_sum, sample_key
from pipeline.dataset.manifest import File, LabelKind, Manifest, Shard, write_manifest
from pipeline.dataset.row import IndexRow
from tests.images import photo


@dataclass(frozen=True)
class Image:
    """One image. Equal `look` and size: equal bytes."""

    labels: tuple[int, ...]
    width: int
    height: int
    look: int
    noisy: bool = False  # no JPEG makes it small

    @property
    def data(self) -> bytes:
        pixels = photo(self.width, self.height, self.look)
        if self.noisy:
            pixels = np.random.default_rng(self.look).integers(0, 256, pixels.shape, np.uint8)
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=90, fastdct=False)


def write(
    dataset: Path,
    shards: Sequence[Sequence[Image]],
    classes: Sequence[str],
    labels: LabelKind = "single",
    rejects: Sequence[Reject] = (),
    catalogue: bool = True,
    split: str = "all",
) -> Manifest:
    """Writes tars, indexes, manifest and, unless told otherwise, catalogue and rejects."""
    (dataset / "shards").mkdir(parents=True, exist_ok=True)
    rows: list[list[CatalogueRow]] = [[] for _ in shards]
    made = [_shard(dataset, f"shard-{n:06d}.tar", images, labels, split, rows[n]) for n, images in enumerate(shards)]
    names = [f"shards/{shard.index_name}" for shard in made]
    if catalogue:
        parts = [dataset / f"part-{number}" for number in range(len(rows))]
        for part, its_rows in zip(parts, rows, strict=True):
            write_rows(part, its_rows)
        join_rows(dataset / CATALOGUE_NAME, parts)
        for part in parts:
            part.unlink()
        write_rejects(dataset / REJECTS_NAME, rejects)
        names += [CATALOGUE_NAME, REJECTS_NAME]
    files = tuple(File.of(dataset, name) for name in names)
    manifest = Manifest(tuple(classes), labels, tuple(made), {"seed": 7, "size": None, "split": split}, files)
    write_manifest(dataset, manifest)
    return manifest


def _shard(
    dataset: Path, name: str, images: Sequence[Image], kind: LabelKind, split: str, rows: list[CatalogueRow]
) -> Shard:
    index: list[IndexRow] = []
    path = dataset / "shards" / name
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image in enumerate(images):
            source = f"{split}/{name}/{number}.jpg"
            key, data = sample_key(source), image.data
            row = IndexRow(key, tar.offset + tarfile.BLOCKSIZE, len(data), image.labels, image.width, image.height)
            index.append(row)
            _add(tar, f"{key}.jpg", data)
            listed = json.dumps({"labels": list(image.labels)}).encode()
            _add(tar, *((f"{key}.cls", b"%d" % image.labels[0]) if kind == "single" else (f"{key}.json", listed)))
            digest = xxhash.xxh3_64_hexdigest(data)
            size = (len(data), image.width, image.height)
            rows.append(CatalogueRow(key, source, image.labels, *size, split, digest, name))
    content = path.read_bytes()
    keys = hex64(key_sum(row.key for row in index))
    shard = Shard(name, len(images), len(content), xxhash.xxh3_64_hexdigest(content), keys)
    write_index(dataset / "shards" / shard.index_name, index)
    return shard


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
