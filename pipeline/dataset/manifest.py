"""`dataset.json`: what a DATASET holds. Written last, so a folder without it is no dataset.

It has a hash of every other file, and one of itself: no bit of a dataset can change unnoticed.
"""

import hashlib
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import canonical_json, is_plain_name, open_regular, write_json
from pipeline.dataset.location import Location

FORMAT_VERSION = 1
MANIFEST_NAME = "dataset.json"
LabelKind = Literal["single", "multi"]
Container = Literal["webdataset", "tar", "mds"]
MIN_SAMPLE_BYTES: dict[Container, int] = {
    "webdataset": 3 * 512,  # the tar headers of an image and of its label, and the label
    "tar": 2 * 512,  # an image's tar header and the image
    "mds": 4 + 4 + 1,  # where it lies, the image's size, the image
}


class NoDataset(UsageError):
    """There is no dataset.json where one was looked for."""


_HASH = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Shard:
    """One tar, or MDS file. `bytes` and `xxh3` are of the whole file, `samples` and `key_sum` of what its index lists.

    Hashes are 16 hex digits; that of the keys is as keys.py adds them up.
    """

    name: str  # "shard-000000.tar", inside DATASET/shards; there it may be a link to another's file
    samples: int
    bytes: int
    xxh3: str
    key_sum: str

    @property
    def is_hashed(self) -> bool:
        """Whether a copy of it can be checked: of an MDS folder's, nobody may have written the hash down."""
        return _HASH.fullmatch(self.xxh3) is not None

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".arrow"


@dataclass(frozen=True)
class File:
    """Any other file of a dataset: an index, the catalogue, the rejects."""

    name: str  # relative to DATASET
    bytes: int
    xxh3: str

    @classmethod
    def of(cls, dataset: Path, name: str) -> "File":
        """The file as it lies there. Raises OSError."""
        hasher, size = xxhash.xxh3_64(), 0
        with open_regular(dataset / name) as file:
            while block := file.read(2**20):
                hasher.update(block)
                size += len(block)
        return cls(name, size, hasher.hexdigest())


@dataclass(frozen=True)
class Manifest:
    """A dataset's contents. Sample i is the i-th of the concatenated shards, in this order.

    `container` says how the shards are packed: "webdataset", our own strict layout; "tar", any uncompressed tar of
    others; "mds", MosaicML's. `partial`: shards may hold samples that their indexes leave out; the indexes decide.
    """

    classes: tuple[str, ...]
    labels: LabelKind
    shards: tuple[Shard, ...]
    asked: dict[str, Any] = field(default_factory=dict)  # what `shard` was asked for; never a path or a time
    files: tuple[File, ...] = ()
    container: Container = "webdataset"
    partial: bool = False

    @cached_property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [shards + 1]: the id of each shard's first sample, and the total."""
        return np.concatenate([[0], np.cumsum([s.samples for s in self.shards], dtype=np.int64)])

    def path(self, number: int) -> str:
        """Where a shard lies below the dataset's folder or URL."""
        return f"shards/{self.shards[number].name}"

    @cached_property
    def key_sum(self) -> int | None:
        """Sum of the hashes of all keys, modulo 2**64: what an epoch's digest must come to. None: nobody knows."""
        return sum(int(shard.key_sum, 16) for shard in self.shards) % (1 << 64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over version, shards, classes and label kind: equal if and only if the data is the same."""
        shards = [asdict(shard) for shard in self.shards]
        body = {"version": FORMAT_VERSION, "shards": shards, "classes": self.classes, "labels": self.labels}
        return hashlib.sha256(canonical_json(body)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The content of dataset.json, with the `wids` keys by which other readers open it where they can.

        They read tars, and every sample of them.
        """
        body: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "samples": self.samples,
            "classes": list(self.classes),
            "labels": self.labels,
            **({} if self.container == "webdataset" else {"container": self.container}),
            **({"partial": True} if self.partial else {}),
            "asked": self.asked,
            "shards": [asdict(shard) for shard in self.shards],
            "files": [asdict(file) for file in self.files],
        }
        if self.container != "mds" and not self.partial:
            shards = [{"url": f"shards/{s.name}", "nsamples": s.samples, "filesize": s.bytes} for s in self.shards]
            body |= {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        return body | {"xxh3": xxhash.xxh3_64_hexdigest(canonical_json(body))}


Count = Annotated[int, Field(ge=0, lt=2**53)]  # what JSON numbers hold everywhere
Hash = Annotated[str, Field(pattern=r"\A[0-9a-f]{16}\z")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Shard(_Strict):
    name: str
    samples: Count
    bytes: Count
    xxh3: Hash
    key_sum: Hash

    @model_validator(mode="after")
    def _possible(self) -> "_Shard":
        if not is_plain_name(self.name):
            raise ValueError(f"shard name {self.name!r} is not a plain file name")
        return self


class _File(_Strict):
    name: str
    bytes: Count
    xxh3: Hash


class _Body(_Strict, extra="ignore"):
    """What is read of dataset.json; the rest is for others."""

    version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    samples: Count
    classes: list[str]
    labels: LabelKind
    shards: list[_Shard]
    asked: dict[str, Any] = {}
    files: list[_File] = []
    container: Container = "webdataset"
    partial: bool = False

    @model_validator(mode="after")
    def _sums(self) -> "_Body":
        for shard in self.shards:
            if shard.samples * MIN_SAMPLE_BYTES[self.container] > shard.bytes:
                raise ValueError(f"{shard.name!r}: {shard.samples} samples do not fit in {shard.bytes} bytes")
        held = sum(shard.samples for shard in self.shards)
        if held != self.samples:
            raise ValueError(f"says {self.samples} samples, its shards hold {held}")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ValueError("names a shard twice")
        return self


def write_manifest(dataset: Path, manifest: Manifest) -> None:
    """Publishes the dataset: everything that the manifest names must be on disk already."""
    write_json(dataset / MANIFEST_NAME, manifest.to_json())


def read_manifest(dataset: Path | str | Location) -> Manifest:
    """Reads DATASET/dataset.json, from a folder or from a URL.

    Raises:
        NoDataset: none there.
        UsageError: a manifest that is not one of ours; the message says which.
        WorkFailed: a server does not answer.
    """
    dataset = Location.of(dataset)
    path = dataset / MANIFEST_NAME
    try:
        body = _Body.model_validate_json(path.read())
    except FileNotFoundError:
        raise NoDataset(_no_dataset(dataset)) from None
    except PermissionError:
        raise UsageError(f"{path}: no permission to read it") from None
    except OSError as error:
        raise UsageError(f"{path}: not a readable manifest ({error.strerror}); make the dataset again") from None
    except ValidationError as error:
        raise UsageError(f"{path}: {_wrong(error)}") from None
    return Manifest(
        classes=tuple(body.classes),
        labels=body.labels,
        shards=tuple(Shard(**shard.model_dump()) for shard in body.shards),
        asked=body.asked,
        files=tuple(File(**file.model_dump()) for file in body.files),
        container=body.container,
        partial=body.partial,
    )


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong with a manifest."""
    first = error.errors(include_url=False)[0]
    where = repr(".".join(map(str, first["loc"])))[1:-1][:80]
    if first["type"] == "json_invalid":
        return f"not a readable manifest ({first['msg']}); make the dataset again"
    if where == "version" and first["type"] != "missing":
        return f"format version {repr(first['input'])[:20]}, this vitstream reads {FORMAT_VERSION}"
    problem = first["msg"].removeprefix("Value error, ")[:200]
    return f"not a vitstream manifest ({f'{where}: ' * bool(where)}{problem})"


def _no_dataset(dataset: Location) -> str:
    if dataset.is_remote:
        return f"{dataset}: no {MANIFEST_NAME} there; copy a DATASET that vitstream shard has made to it"
    folder = dataset.path
    splits = [p.parent.name for p in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    if splits:
        return f"{folder}: no dataset here, but in its folders {', '.join(splits)}: name one of them"
    if (folder / "index.json").is_file():
        made = f"a dataset of it is made with: vitstream index {folder} --out DATASET"
        return f"{folder}: an MDS folder as it lies, which only train, plan and order take; {made}"
    if folder.is_dir():
        return f"{folder}: no {MANIFEST_NAME} in it; make it with: vitstream shard SOURCE --out {folder}"
    return f"{folder}: no such dataset; make it with: vitstream shard SOURCE --out {folder}"
