"""The audit of one shard: every byte of the tar against its index, the catalogue and the manifest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.catalog import CATALOGUE_NAME
from data_prep.tar import Member, TarError, members
from data_prep.workers import Advance
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.images import ImageError, decode, read_header
from pipeline.dataset.index import IndexRow, ShardIndex
from pipeline.dataset.keys import hex64, key_hash, key_sum
from pipeline.dataset.manifest import LabelKind, Shard

MAX_FINDINGS: Final = 20  # on single samples of one shard: the next thousand would say the same
IMAGE_SUFFIXES: Final = ("jpg", "png", "webp")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `shard` and `key` are empty where it concerns more than one."""

    dataset: str
    shard: str
    key: str
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.dataset, self.shard, self.key, self.problem) if part)


@dataclass(frozen=True)
class AuditTask:
    """One shard to be audited, and what the manifest says of it."""

    dataset: Path
    number: int
    shard: Shard
    classes: int
    labels: LabelKind
    max_pixels: int


@dataclass
class Audit:
    """What was found. `hashes` are those of the keys, for the search for duplicates."""

    task: AuditTask
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, problem: str, key: str = "") -> None:
        """Notes a finding; one more on a single sample is only counted where there are too many to be read."""
        if not key or len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(str(self.task.dataset), self.task.shard.name, key, problem))
        else:
            self.more += 1


class _HashedFile:
    """Hashes what is read through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = xxhash.xxh3_64()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hasher.update(data)
        return data

    def finish(self) -> str:
        """The hash of the whole file."""
        while self.read(2**20):
            pass
        return self._hasher.hexdigest()


def audit_shard(task: AuditTask, advance: Advance) -> Audit:
    """Audits one shard; `advance` is told of every sample."""
    audit = Audit(task)
    tar = task.dataset / "shards" / task.shard.name
    rows = _index_rows(audit, tar.with_name(task.shard.index_name))
    try:
        size = tar.stat().st_size
        with tar.open("rb") as file:
            hashed = _HashedFile(file)
            _audit_samples(audit, hashed, rows, advance)
            digest = hashed.finish()
    except OSError as error:
        audit.add(f"cannot be read: {error.strerror}")
        return audit
    if size != task.shard.bytes:
        audit.add(f"has {size:,} bytes, the manifest says {task.shard.bytes:,}")
    elif digest != task.shard.xxh3:
        audit.add(f"its hash is {digest}, the manifest says {task.shard.xxh3}")
    _summarise(audit, [row.key for row in rows])
    return audit


def _index_rows(audit: Audit, path: Path) -> list[IndexRow]:
    try:
        index = ShardIndex(path)
        return [index.row(position) for position in range(len(index))]
    except (WorkFailed, pa.ArrowException, OSError, ValueError) as error:
        audit.add(f"index {path.name} cannot be read: {str(error).splitlines()[0]}")
        return []


def _audit_samples(audit: Audit, file: _HashedFile, rows: list[IndexRow], advance: Advance) -> None:
    catalogue = _catalogue_rows(audit)
    seen = 0
    try:
        for position, (image, label) in enumerate(_samples(file)):
            seen += 1
            advance(1)
            key = image.name.split(".", 1)[0]
            row = rows[position] if position < len(rows) else None
            _audit_sample(audit, image, label, row)
            if catalogue is not None and position < len(catalogue):
                _compare(audit, key, catalogue[position], _catalogue_of(image, label, row))
    except TarError as error:
        audit.add(str(error))
    if rows and seen != len(rows):
        audit.add(f"{seen:,} whole samples in the tar, {len(rows):,} in its index")


def _samples(file: _HashedFile) -> Iterator[tuple[Member, Member]]:
    """Pairs of an image and its label. Raises TarError where members are not such pairs."""
    image: Member | None = None
    for member in members(file):  # type: ignore[arg-type]
        key, _, suffix = member.name.partition(".")
        if image is None:
            if suffix not in IMAGE_SUFFIXES:
                raise TarError(f"{member.name}: expected an image here")
            image = member
        elif key != image.name.partition(".")[0] or suffix not in ("cls", "json"):
            raise TarError(f"{member.name}: expected the label of {image.name} here")
        else:
            yield image, member
            image = None
    if image is not None:
        raise TarError(f"{image.name}: has no label")


def _audit_sample(audit: Audit, image: Member, label: Member, row: IndexRow | None) -> None:
    key = image.name.split(".", 1)[0]
    labels = _labels(label)
    if labels is None or (audit.task.labels == "single") != label.name.endswith(".cls"):
        audit.add(f"{label.name} holds no {audit.task.labels} label: {label.data[:40]!r}", key)
    elif any(value >= audit.task.classes for value in labels):
        audit.add(f"label {list(labels)}, but there are {audit.task.classes} classes", key)
    try:
        header = read_header(image.data, audit.task.max_pixels)
        decode(image.data, header, min_width=1, min_height=1)  # at 1/8: every byte is parsed all the same
        size = (header.width, header.height)
    except ImageError as error:
        audit.add(f"image cannot be decoded: {error}", key)
        size = (row.width, row.height) if row else (0, 0)
    if row is not None:
        truth = IndexRow(key, image.offset, len(image.data), labels or (), *size)
        if row != truth:
            names = [name for name in IndexRow.__annotations__ if getattr(row, name) != getattr(truth, name)]
            differs = ", ".join(f"{name} {getattr(row, name)} instead of {getattr(truth, name)}" for name in names)
            audit.add(f"its index says {differs}", key)


def _labels(label: Member) -> tuple[int, ...] | None:
    """What a .cls or .json member says, or None where it is neither."""
    try:
        if label.name.endswith(".cls"):
            return (int(label.data),) if label.data.isdigit() else None
        values = json.loads(label.data)["labels"]
    except (ValueError, KeyError, TypeError):
        return None
    right = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    return tuple(values) if right else None


def _catalogue_rows(audit: Audit) -> list[dict[str, object]] | None:
    """This shard's row group, or None where there is none: that is reported once, for the whole dataset."""
    try:
        with pq.ParquetFile(audit.task.dataset / CATALOGUE_NAME) as file:
            return file.read_row_group(audit.task.number).to_pylist()
    except (OSError, pa.ArrowException, IndexError):
        return None


def _catalogue_of(image: Member, label: Member, row: IndexRow | None) -> dict[str, object]:
    truth: dict[str, object] = {"key": image.name.split(".", 1)[0], "size": len(image.data)}
    truth["hash"] = xxhash.xxh3_64_hexdigest(image.data)
    if row is not None:
        truth |= {"labels": list(row.labels), "width": row.width, "height": row.height}
    return truth


def _compare(audit: Audit, key: str, said: dict[str, object], truth: dict[str, object]) -> None:
    differs = [
        f"{name} {said.get(name)} instead of {value}" for name, value in truth.items() if said.get(name) != value
    ]
    if differs:
        audit.add(f"{CATALOGUE_NAME} says {', '.join(differs)}", key)


def _summarise(audit: Audit, keys: list[str]) -> None:
    shard = audit.task.shard
    if len(keys) != shard.samples:
        audit.add(f"{len(keys):,} samples in its index, the manifest says {shard.samples:,}")
    if hex64(key_sum(keys)) != shard.key_sum:
        audit.add(f"the keys of its index add up to {hex64(key_sum(keys))}, the manifest says {shard.key_sum}")
    audit.hashes = np.fromiter(map(key_hash, keys), np.uint64, len(keys))
