"""What an audit is asked and what it finds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.dataset.keys import keyed_hash
from pipeline.dataset.manifest import Container, LabelKind, Shard
from pipeline.dataset.names import escape
from pipeline.dataset.quantities import parse_limit

MAX_FINDINGS: Final = 20  # on single samples of one shard: the next thousand would say the same


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
class Decoding:
    """Which images are decoded, all of them or a sample by keyed hash: the same ones for the same seed."""

    below: int = 1 << 64  # hashes, of 2**64
    seed: int = 0

    @classmethod
    def parse(cls, text: str, samples: int, seed: int) -> "Decoding":
        """`all`; about so many of `samples`, `1000`; or a share, `0.1` or `10%`. Raises UsageError."""
        count = samples if text == "all" else parse_limit(text, samples, "--decode")
        return cls((count << 64) // max(samples, 1), seed)

    def takes(self, key: str) -> bool:
        """Whether the image of this key is decoded."""
        return self.below >> 64 > 0 or keyed_hash(key, self.seed) < self.below


@dataclass(frozen=True)
class AuditTask:
    """One shard to be audited, and what the manifest says of it and of its dataset."""

    dataset: Path
    number: int
    shard: Shard
    classes: tuple[str, ...]
    labels: LabelKind
    split: str
    max_pixels: int
    container: Container = "webdataset"
    partial: bool = False
    catalogued: bool = True  # there is a samples.parquet
    decoding: Decoding = Decoding()

    @property
    def path(self) -> Path:
        """Where the shard lies."""
        return self.dataset / "shards" / self.shard.name


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


def why_unreadable(path: Path, error: OSError) -> str:
    """The reason, and where a link leads that leads nowhere."""
    gone = f", which is a link to {escape(str(path.readlink()))}" if path.is_symlink() else ""
    return f"{error.strerror or error}{gone}"
