"""OUT/.index-work: what was found in each shard, kept until the manifest is written.

HASH.json     the shard's size and time when it was read, its hash, which labels it has, its rejects; written last
HASH.parquet  its samples
lock          held by the process that works here
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.catalog.samples import Reject
from data_prep.foreign.packed import LabelForm, Labels, PackedSample
from pipeline.dataset.files import atomic_file, write_json

WORK_NAME: Final = ".index-work"
_TEXT: Final = pa.string()
_SCHEMA: Final = pa.schema(
    [
        pa.field("name", _TEXT),
        pa.field("key", _TEXT),
        pa.field("offset", pa.uint64()),
        pa.field("size", pa.uint32()),
        pa.field("form", _TEXT),
        pa.field("values", pa.list_(_TEXT)),
        pa.field("several", pa.bool_()),
        pa.field("width", pa.uint32()),
        pa.field("height", pa.uint32()),
        pa.field("hash", _TEXT),
    ]
)


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is the one that was read before."""

    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Raises OSError."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Part:
    """What is known of one shard before the classes are."""

    shard: str
    stamp: Stamp
    xxh3: str
    samples: int
    rejects: tuple[Reject, ...]
    forms: dict[LabelForm, str]  # which forms of labels there are, each with the name of a sample
    names: tuple[str, ...]  # labels that are names, sorted
    highest: int  # of those that are numbers; -1 where there are none
    highest_at: str  # the name of a sample that has it
    several: bool  # some are lists


def part_path(work: Path, shard: str) -> Path:
    """Where a shard's record lies. A hash, as names may be too long for a suffix."""
    return work / f"{xxhash.xxh3_64_hexdigest(os.fsencode(shard))}.json"


def write_part(work: Path, part: Part, samples: Sequence[PackedSample]) -> None:
    """Stores what was found in a shard; the record last."""
    path = part_path(work, part.shard)
    of_labels = ("form", "values", "several")
    columns = {
        name: [getattr(sample.labels if name in of_labels else sample, name) for sample in samples]
        for name in _SCHEMA.names
    }
    with atomic_file(path.with_suffix(".parquet")) as file:
        pq.write_table(pa.table(columns, schema=_SCHEMA), file)
    write_json(path, asdict(part))


def read_part(work: Path, shard: str) -> Part | None:
    """What was found in a shard, or None where there is no record, or one that cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        body = json.loads(part_path(work, shard).read_bytes())
        body["stamp"] = Stamp(**body["stamp"])
        body["rejects"] = tuple(Reject(**reject) for reject in body["rejects"])
        return Part(**body | {"names": tuple(body["names"])})
    return None


def read_samples(work: Path, shard: str) -> list[PackedSample]:
    """The samples of a shard that has a record, in order."""
    with part_path(work, shard).with_suffix(".parquet").open("rb") as file:
        rows = pq.read_table(file).to_pylist()
    return [
        PackedSample(labels=Labels(row.pop("form"), tuple(row.pop("values")), row.pop("several")), **row)
        for row in rows
    ]


def read_keys(work: Path, shard: str) -> pa.ChunkedArray:
    """Their keys alone."""
    with part_path(work, shard).with_suffix(".parquet").open("rb") as file:
        return pq.read_table(file, columns=["key"]).column("key")
