"""`dataset.json`: what a DATASET holds. Written last, so a folder without it is no dataset."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import canonical_json, is_plain_name, write_json

FORMAT_VERSION = 1
MANIFEST_NAME = "dataset.json"
LabelKind = Literal["single", "multi"]


@dataclass(frozen=True)
class Shard:
    """One tar. `xxh3` is the hash of its bytes, `key_sum` of its keys (keys.py), both as 16 hex digits."""

    name: str  # "shard-000000.tar", inside DATASET/shards
    samples: int
    bytes: int
    xxh3: str
    key_sum: str

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".arrow"


@dataclass(frozen=True)
class Manifest:
    """A dataset's contents. Sample i is the i-th of the concatenated shards, in this order."""

    classes: tuple[str, ...]
    labels: LabelKind
    shards: tuple[Shard, ...]
    asked: dict[str, Any] = field(default_factory=dict)  # what `shard` was asked for; never a path or a time

    @cached_property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [shards + 1]: the id of each shard's first sample, and the total."""
        return np.concatenate([[0], np.cumsum([s.samples for s in self.shards], dtype=np.int64)])

    @cached_property
    def key_sum(self) -> int:
        """Sum of the hashes of all keys, modulo 2**64: what an epoch's digest must come to."""
        return sum(int(shard.key_sum, 16) for shard in self.shards) % (1 << 64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over version, shards, classes and label kind: equal if and only if the data is the same."""
        shards = [asdict(shard) for shard in self.shards]
        body = {"version": FORMAT_VERSION, "shards": shards, "classes": self.classes, "labels": self.labels}
        return hashlib.sha256(canonical_json(body)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The content of dataset.json, with the `wids` keys by which other readers open it."""
        return {
            "version": FORMAT_VERSION,
            "samples": self.samples,
            "classes": list(self.classes),
            "labels": self.labels,
            "asked": self.asked,
            "shards": [asdict(shard) for shard in self.shards],
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "shardlist": [{"url": f"shards/{s.name}", "nsamples": s.samples, "filesize": s.bytes} for s in self.shards],
        }


def write_manifest(dataset: Path, manifest: Manifest) -> None:
    """Publishes the dataset: everything that the manifest names must be on disk already."""
    write_json(dataset / MANIFEST_NAME, manifest.to_json())


def read_manifest(dataset: Path) -> Manifest:
    """Reads DATASET/dataset.json.

    Raises:
        UsageError: no dataset there, or a manifest that is not one of ours; the message says which.
    """
    path = dataset / MANIFEST_NAME
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(_no_dataset(dataset)) from None
    except PermissionError:
        raise UsageError(f"{path}: no permission to read it") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable manifest ({error}); make the dataset again") from None
    try:
        if body["version"] != FORMAT_VERSION:
            raise UsageError(f"{path}: format version {body['version']}, this vitstream reads {FORMAT_VERSION}")
        manifest = Manifest(
            classes=tuple(body["classes"]),
            labels=body["labels"],
            shards=tuple(Shard(**shard) for shard in body["shards"]),
            asked=body.get("asked", {}),
        )
        if manifest.samples != body["samples"]:
            raise UsageError(f"{path}: says {body['samples']} samples, its shards hold {manifest.samples}")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not a vitstream manifest ({error!r})") from None
    unsafe = next((s.name for s in manifest.shards if not is_plain_name(s.name)), None)
    if unsafe is not None:
        raise UsageError(f"{path}: shard name {unsafe!r} is not a plain file name")
    return manifest


def _no_dataset(dataset: Path) -> str:
    splits = [p.parent.name for p in sorted(dataset.glob(f"*/{MANIFEST_NAME}"))]
    if splits:
        return f"{dataset}: no dataset here, but in its folders {', '.join(splits)}: name one of them"
    if dataset.is_dir():
        return f"{dataset}: no {MANIFEST_NAME} in it; make it with: vitstream shard SOURCE --out {dataset}"
    return f"{dataset}: no such dataset; make it with: vitstream shard SOURCE --out {dataset}"
