"""A worker's two tasks: to find out what is in a shard; and, once the classes are known, to publish its index."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_prep.adopt.classes import NO_LABEL, Labelling
from data_prep.adopt.mds import scan_mds
from data_prep.adopt.parts import Part, Stamp, part_path, read_part, read_samples, write_part
from data_prep.adopt.tar import scan_tar
from data_prep.catalog.samples import CatalogueRow, Reject, write_rows
from data_prep.common.links import link
from data_prep.common.workers import Advance
from data_prep.foreign.packed import LabelForm, PackedSample
from data_prep.foreign.tars import BrokenTar
from pipeline.dataset.errors import UsageError
from pipeline.dataset.index import write_index
from pipeline.dataset.keys import hex64, key_sum
from pipeline.dataset.manifest import Container, File, Shard
from pipeline.dataset.mds import MdsError
from pipeline.dataset.row import IndexRow

SCANS = {"tar": scan_tar, "mds": scan_mds}


@dataclass(frozen=True)
class ScanTask:
    """One shard to be looked through."""

    name: str
    path: Path
    container: Container
    work: Path


@dataclass(frozen=True)
class PublishTask:
    """One shard whose index is to be written. `twice`: keys that an earlier shard or sample has, and where."""

    name: str
    path: Path
    work: Path
    dataset: Path
    labelling: Labelling
    twice: dict[int, str]  # row -> shard


@dataclass(frozen=True)
class Published:
    """What came of it. `shard` is None where nothing of it can be used."""

    shard: Shard | None
    index: File | None
    rejects: tuple[Reject, ...]


def scan_shard(task: ScanTask, advance: Advance) -> str | None:
    """Looks through one shard and stores what it found. Returns why it cannot be used, where it cannot."""
    samples: list[PackedSample] = []
    rejects: list[Reject] = []
    try:
        before = Stamp.of(task.path)
        xxh3 = File.of(task.path.parent, task.path.name).xxh3
        for found in SCANS[task.container](task.path, task.name):
            (rejects if isinstance(found, Reject) else samples).append(found)  # type: ignore[arg-type]
            advance(1)
        if Stamp.of(task.path) != before:
            return f"{task.path}: changes while it is read; wait until it is whole"
    except (BrokenTar, MdsError) as error:
        return f"{task.path}: {error}"
    except UsageError as error:
        return f"{task.path}: {error}"
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) != task.path:
            raise
        return f"{task.path}: cannot be read ({error.strerror})"
    write_part(task.work, summary(task.name, before, xxh3, samples, rejects), samples)
    return None


def summary(shard: str, stamp: Stamp, xxh3: str, samples: list[PackedSample], rejects: list[Reject]) -> Part:
    """What the whole dataset has to know of a shard."""
    forms: dict[LabelForm, str] = {}
    names: Counter[str] = Counter()
    highest, highest_at = -1, ""
    for sample in samples:
        forms.setdefault(sample.labels.form, sample.name)
        if sample.labels.form == "name":
            names.update(sample.labels.values)
        elif sample.labels.form == "number" and max(map(int, sample.labels.values)) > highest:
            highest, highest_at = max(map(int, sample.labels.values)), sample.name
    several = any(sample.labels.several for sample in samples)
    return Part(
        shard, stamp, xxh3, len(samples), tuple(rejects), forms, tuple(sorted(names)), highest, highest_at, several
    )


def publish_shard(task: PublishTask, advance: Advance) -> Published:
    """Writes a shard's index, its link and its part of the catalogue. Raises OSError."""
    part = read_part(task.work, task.name)
    assert part is not None
    used, rejects = [], list(part.rejects)
    for number, sample in enumerate(read_samples(task.work, task.name)):
        labels = task.labelling.ids(sample.labels)
        if labels is None:
            rejects.append(Reject(sample.name, sample.key, NO_LABEL))
        elif number in task.twice:
            rejects.append(Reject(sample.name, sample.key, f"duplicate key: also in {task.twice[number]}"))
        else:
            used.append((sample, labels))
    advance(1)
    if not used:
        return Published(None, None, tuple(rejects))
    rows = index_rows(used)
    key_hashes = hex64(key_sum(row.key for row in rows))
    shard = Shard(task.name, len(rows), part.stamp.bytes, part.xxh3, key_hashes)
    write_rows(catalogue_part(task.work, task.name), catalogue_rows(task.name, used))
    write_index(task.dataset / "shards" / shard.index_name, rows)
    link(task.path, task.dataset / "shards" / task.name)
    return Published(shard, File.of(task.dataset, f"shards/{shard.index_name}"), tuple(rejects))


def catalogue_part(work: Path, shard: str) -> Path:
    """A shard's part of samples.parquet."""
    return part_path(work, shard).with_suffix(".catalogue")


def index_rows(used: list[tuple[PackedSample, tuple[int, ...]]]) -> list[IndexRow]:
    """Samples and their class ids as rows of the index."""
    return [IndexRow(s.key, s.offset, s.size, labels, s.width, s.height) for s, labels in used]


def catalogue_rows(shard: str, used: list[tuple[PackedSample, tuple[int, ...]]]) -> list[CatalogueRow]:
    """The same as rows of the catalogue."""
    return [CatalogueRow(s.key, s.name, labels, s.size, s.width, s.height, "all", s.hash, shard) for s, labels in used]
