"""The audit of one shard: every byte of it against its index, the catalogue and the manifest."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.adopt.classes import Labelling
from data_prep.adopt.scan import SCANS
from data_prep.audit.finding import Audit, AuditTask, why_unreadable
from data_prep.audit.sample import UNREADABLE, Expected, check_sample, first_line
from data_prep.catalog.samples import Reject
from data_prep.common.workers import Advance
from data_prep.foreign.packed import PackedSample
from data_prep.foreign.tars import BrokenTar
from data_prep.shards.tar import Member, TarError, members
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import open_regular
from pipeline.dataset.index import SCHEMA
from pipeline.dataset.keys import hex64, key_hash, key_sum
from pipeline.dataset.manifest import File, LabelKind
from pipeline.dataset.mds import MdsError
from pipeline.dataset.row import IndexRow

IMAGE_SUFFIXES: Final = ("jpg", "png", "webp")


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
    rows = _index_rows(audit, task.path.with_name(task.shard.index_name))
    expected = Expected(audit, rows)
    try:
        size = task.path.stat().st_size
        samples = _audit_own if task.container == "webdataset" else _audit_adopted
        digest = samples(audit, expected, advance)
    except OSError as error:
        audit.add(f"cannot be read: {why_unreadable(task.path, error)}")
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
        reason = why_unreadable(path, error) if isinstance(error, OSError) else first_line(error)
        audit.add(f"index {path.name} cannot be read: {reason}")
        return []


def index_rows(path: Path) -> list[IndexRow]:
    """All rows of an index that may be damaged. Raises one of UNREADABLE.

    Every offset and null is looked at before any is followed: in a damaged file, following one may crash Arrow.
    """
    rows: list[IndexRow] = []
    with open_regular(path) as file, pa.ipc.open_file(file) as reader:
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


def _audit_own(audit: Audit, expected: Expected, advance: Advance) -> str:
    """A tar of ours, in which nothing may be but pairs of image and label. Returns the hash of the file."""
    with open_regular(audit.task.path) as opened:
        file = _HashedFile(opened)
        try:
            for image, label in own_samples(file):
                said = expected.next(image.offset)
                if said is not None:
                    advance(1)
                    key = image.name.split(".", 1)[0]
                    labels = read_labels(label)
                    if labels is None or (audit.task.labels == "single") != label.name.endswith(".cls"):
                        audit.add(f"{label.name} holds no {audit.task.labels} label: {label.data[:40]!r}", key)
                    check_sample(audit, said, key, image.offset, image.data, labels)
        except TarError as error:
            audit.add(str(error))
        expected.finish(audit)
        return file.finish()


def own_samples(file: _HashedFile | BinaryIO) -> Iterator[tuple[Member, Member]]:
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


def read_labels(label: Member) -> tuple[int, ...] | None:
    """What a .cls or .json member says, or None where it is neither."""
    try:
        if label.name.endswith(".cls"):
            return (int(label.data),) if label.data.isdigit() else None
        values = json.loads(label.data)["labels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    right = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    return tuple(values) if right else None


def _audit_adopted(audit: Audit, expected: Expected, advance: Advance) -> str:
    """A shard of others, looked through as `index` did. Returns the hash of the file."""
    task = audit.task
    listed = {row.key for row in expected.rows}
    labels_of = AdoptedLabels(task.classes, task.labels)
    file = open_regular(task.path)
    try:
        for found in SCANS[task.container](task.path, task.shard.name):
            if isinstance(found, Reject):
                if found.key in listed:
                    audit.add(f"cannot be used: {found.reason}", found.key)
                continue
            said = expected.next(found.offset)
            if said is not None:
                advance(1)
                labels = labels_of(found)
                if labels is None:
                    audit.add(f"label {found.labels.values[:3]} is none of the dataset's classes", found.key)
                data = os.pread(file.fileno(), found.size, found.offset)
                check_sample(audit, said, found.key, found.offset, data, labels)
            elif not task.partial:
                audit.add("is not in its index", found.key)
    except (BrokenTar, MdsError, UsageError) as error:
        audit.add(str(error))
    finally:
        file.close()
    expected.finish(audit)
    return File.of(task.path.parent, task.path.name).xxh3


class AdoptedLabels:
    """Class ids of the samples of others, as `index` gave them; None where a label is no class of the dataset."""

    def __init__(self, classes: tuple[str, ...], kind: LabelKind) -> None:
        self._by = {form: Labelling(classes, kind, form == "number", labelled=False) for form in ("number", "name")}

    def __call__(self, found: PackedSample) -> tuple[int, ...] | None:
        try:
            return self._by["number" if found.labels.form == "number" else "name"].ids(found.labels)
        except KeyError:
            return None


def _summarise(audit: Audit, keys: list[str]) -> None:
    shard = audit.task.shard
    if len(keys) != shard.samples:
        audit.add(f"{len(keys):,} samples in its index, the manifest says {shard.samples:,}")
    if hex64(key_sum(keys)) != shard.key_sum:
        audit.add(f"the keys of its index add up to {hex64(key_sum(keys))}, the manifest says {shard.key_sum}")
    audit.hashes = np.fromiter(map(key_hash, keys), np.uint64, len(keys))
