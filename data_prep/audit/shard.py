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

from data_prep.catalog.samples import CATALOGUE_NAME
from data_prep.names import escape, unescape
from data_prep.shards.tar import Member, TarError, members
from data_prep.workers import Advance
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.images import ImageError, decode, read_header
from pipeline.dataset.index import SCHEMA, IndexRow
from pipeline.dataset.keys import hex64, key_hash, key_sum, sample_key
from pipeline.dataset.manifest import LabelKind, Shard

UNREADABLE: Final = (WorkFailed, pa.ArrowException, OSError, ValueError, TypeError)  # by what a damaged file raises
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
    classes: tuple[str, ...]
    labels: LabelKind
    split: str
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
            self.findings.append(Finding(escape(str(self.task.dataset)), self.task.shard.name, key, problem))
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
        return index_rows(path)
    except UNREADABLE as error:
        audit.add(f"index {path.name} cannot be read: {_first_line(error)}")
        return []


def index_rows(path: Path) -> list[IndexRow]:
    """All rows of an index that may be damaged. Raises one of UNREADABLE.

    Every offset and null is looked at before any is followed: in a damaged file, following one may crash Arrow.
    """
    rows: list[IndexRow] = []
    with path.open("rb") as file, pa.ipc.open_file(file) as reader:
        if reader.schema != SCHEMA:
            raise ValueError("columns of other names or types")
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                raise ValueError("a column has nulls")
            for key, offset, size, labels, width, height in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                rows.append(IndexRow(key, offset, size, tuple(labels), width, height))
    return rows


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _audit_samples(audit: Audit, file: _HashedFile, rows: list[IndexRow], advance: Advance) -> None:
    catalogue = _catalogue_rows(audit)
    seen = 0
    try:
        for position, (image, label) in enumerate(_samples(file)):
            seen += 1
            advance(1)
            row = rows[position] if position < len(rows) else None
            truth = _audit_sample(audit, image, label, row)
            if catalogue is not None and position < len(catalogue):
                _compare(audit, catalogue[position], truth, image.data)
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


def _audit_sample(audit: Audit, image: Member, label: Member, row: IndexRow | None) -> IndexRow:
    """Checks a sample against its index. Returns what the index ought to say."""
    key = image.name.split(".", 1)[0]
    labels = _labels(label)
    if labels is None or (audit.task.labels == "single") != label.name.endswith(".cls"):
        audit.add(f"{label.name} holds no {audit.task.labels} label: {label.data[:40]!r}", key)
    elif any(value >= len(audit.task.classes) for value in labels):
        audit.add(f"label {list(labels)}, but there are {len(audit.task.classes)} classes", key)
    try:
        header = read_header(image.data, audit.task.max_pixels)
        decode(image.data, header, min_width=1, min_height=1)  # at 1/8: every byte is parsed all the same
        size = (header.width, header.height)
    except ImageError as error:
        audit.add(f"image cannot be decoded: {error}", key)
        size = (row.width, row.height) if row else (0, 0)
    truth = IndexRow(key, image.offset, len(image.data), labels or (), *size)
    if row is not None and row != truth:
        names = [name for name in IndexRow.__annotations__ if getattr(row, name) != getattr(truth, name)]
        differs = ", ".join(f"{name} {getattr(row, name)} instead of {getattr(truth, name)}" for name in names)
        audit.add(f"its index says {differs}", key)
    return truth


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
    """This shard's row group, or None where it cannot be read."""
    try:
        with (audit.task.dataset / CATALOGUE_NAME).open("rb") as opened, pq.ParquetFile(opened) as file:
            return file.read_row_group(audit.task.number).to_pylist()
    except (*UNREADABLE, IndexError) as error:
        audit.add(f"its rows of {CATALOGUE_NAME} cannot be read: {_first_line(error)}")
        return None


def _compare(audit: Audit, said: dict[str, object], truth: IndexRow, image: bytes) -> None:
    """Compares a row of the catalogue, every column of it, with the sample."""
    expected: dict[str, object] = {
        "key": truth.key,
        "labels": list(truth.labels),
        "size": len(image),
        "width": truth.width,
        "height": truth.height,
        "split": audit.task.split,
        "hash": xxhash.xxh3_64_hexdigest(image),
        "shard": audit.task.shard.name,
    }
    differs = [
        f"{name} {said.get(name)} instead of {value}" for name, value in expected.items() if said.get(name) != value
    ]
    if not _belongs(str(said.get("path")), truth, audit.task.classes):
        differs.append(f"path {said.get('path')}, which has another key or class")
    if differs:
        audit.add(f"{CATALOGUE_NAME} says {', '.join(differs)}", truth.key)


def _belongs(path: str, truth: IndexRow, classes: tuple[str, ...]) -> bool:
    """Whether an escaped path is the one that a sample's key and class were taken from."""
    try:
        name = unescape(path)
        return (
            escape(name) == path
            and sample_key(name) == truth.key
            and all(classes[label] == escape(name.partition("/")[0]) for label in truth.labels)
        )
    except (UnicodeError, IndexError):
        return False


def _summarise(audit: Audit, keys: list[str]) -> None:
    shard = audit.task.shard
    if len(keys) != shard.samples:
        audit.add(f"{len(keys):,} samples in its index, the manifest says {shard.samples:,}")
    if hex64(key_sum(keys)) != shard.key_sum:
        audit.add(f"the keys of its index add up to {hex64(key_sum(keys))}, the manifest says {shard.key_sum}")
    audit.hashes = np.fromiter(map(key_hash, keys), np.uint64, len(keys))
