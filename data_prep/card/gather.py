"""Everything that a card says, gathered from a dataset, or from the folder of its train/ and val/."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from data_prep.card import catalogue, indexes, pictures, rejects
from data_prep.card.distribution import Distribution
from data_prep.card.pictures import Picture
from data_prep.card.rejects import Kind
from data_prep.card.tally import Tally
from data_prep.common.progress import progress_bar
from data_prep.common.workers import Advance
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.dataset.names import escape

REPORT_NAME: Final = "report.json"
MAX_REPORT_BYTES: Final = 64 * 2**20
_SPLITS: Final = ("train", "val")


@dataclass(frozen=True)
class Part:
    """One dataset of a card. `name`: "train" or "val", or "" where it is the only one."""

    name: str
    folder: Path
    manifest: Manifest
    tally: Tally
    rejects: dict[str, Kind] | None


@dataclass(frozen=True)
class Card:
    """What there is to say of a dataset, in one part or two."""

    name: str
    parts: tuple[Part, ...]
    tally: Tally  # of all parts
    duplicates: catalogue.Duplicates | None  # None: without a catalogue they are not known
    dedup: dict[str, Any] | None  # the report of `vitstream dedup`
    pictures: tuple[Picture, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.parts[0].manifest.classes

    @property
    def rejects(self) -> dict[str, Kind] | None:
        """Of all parts."""
        found: dict[str, Kind] | None = None
        for part in self.parts:
            found = rejects.added(found, part.rejects)
        return found

    @property
    def shard_bytes(self) -> Distribution:
        """Of the shards' files."""
        return _spread([shard.bytes for part in self.parts for shard in part.manifest.shards])

    @property
    def shard_images(self) -> Distribution:
        """Of how many images a shard has."""
        return _spread([shard.samples for part in self.parts for shard in part.manifest.shards])


def gather(dataset: Path, count: int, dedup: Path | None, spill: Path, workers: int, bar: bool = False) -> Card:
    """Counts all images and draws `count` of them.

    Args:
        dataset: a DATASET, or the folder of train/ and val/.
        count: of pictures to show.
        dedup: the folder that `vitstream dedup` made, if any.
        spill: an existing folder for temporary files.
        workers: processes that decode pictures.
        bar: whether to show progress on stderr.

    Raises:
        UsageError: no dataset there, no report in `dedup`.
        WorkFailed: the dataset is damaged.
    """
    if not 0 <= count <= pictures.MAX_PICTURES:
        raise UsageError(f"--pictures {count}: expected 0 to {pictures.MAX_PICTURES}")
    folders = dataset_folders(dataset)
    report = None if dedup is None else _read_report(dedup)
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if (manifest.classes, manifest.labels) != (manifests[0].classes, manifests[0].labels):
            raise UsageError(f"{folders[0]} and {folder} have other classes: inspect them one by one")
    total = sum(manifest.samples for manifest in manifests)
    with progress_bar("inspecting", total, 0, bar) as advance:
        names = [folder.name for folder in folders] if len(folders) > 1 else [""]
        parts = tuple(
            _part(name, folder, manifest, spill, advance)
            for name, folder, manifest in zip(names, folders, manifests, strict=True)
        )
    catalogued = all(catalogue.has_catalogue(part.folder, part.manifest) for part in parts)
    with progress_bar("pictures", min(count, total), 0, bar) as advance:
        shown = pictures.make(pictures.choose(folders, manifests, count), workers, advance)
    return Card(
        _name(dataset),
        parts,
        _sum([part.tally for part in parts]),
        catalogue.duplicates(folders, spill) if catalogued else None,
        report,
        tuple(shown),
    )


def dataset_folders(dataset: Path) -> list[Path]:
    """The dataset itself, or its train/ and val/."""
    found: list[Path] = []
    with suppress(OSError):  # a name too long, a folder that may not be entered: read_manifest says so
        if not (dataset / MANIFEST_NAME).exists():
            found = [dataset / name for name in _SPLITS if (dataset / name / MANIFEST_NAME).exists()]
    return found or [dataset]


def _name(dataset: Path) -> str:
    """The dataset's own name, as its user knows it: the last part of its path, and one more of a `train` or `val`."""
    path = dataset.absolute()
    path = path if path.name not in ("", "..") else path.resolve()
    return escape(f"{path.parent.name}/{path.name}".lstrip("/") if path.name in _SPLITS else path.name or "/")


def _part(name: str, folder: Path, manifest: Manifest, spill: Path, advance: Advance) -> Part:
    if catalogue.has_catalogue(folder, manifest):
        counts = catalogue.tally(folder, manifest, spill)
        advance(manifest.samples)
    else:
        counts = indexes.tally(folder, manifest, advance)
    return Part(name, folder, manifest, counts, rejects.by_reason(folder))


def _sum(tallies: Sequence[Tally]) -> Tally:
    total = Tally(tallies[0].classes * 0)
    for tally in tallies:
        total.add(tally)
    return total


def _spread(values: Sequence[int]) -> Distribution:
    found = Distribution()
    found.add_values(np.array(values, np.int64))
    return found


def _read_report(folder: Path) -> dict[str, Any]:
    """The report of `vitstream dedup`. Raises UsageError."""
    path = folder / REPORT_NAME
    advice = "make it with: vitstream dedup DATASET --out DIR"
    try:
        with path.open("rb") as file:
            report = json.loads(file.read(MAX_REPORT_BYTES))
        if not isinstance(report, dict) or not {"kept", "within", "against"} <= report.keys():
            raise ValueError("no report")
    except OSError as error:
        raise UsageError(f"--dedup {folder}: {REPORT_NAME} cannot be read ({error.strerror}); {advice}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: not a report of vitstream dedup; {advice}") from None
    return report


def spill_folder(out: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder beside the card. Raises WorkFailed where OUT cannot be written."""
    try:
        str(out).encode()  # DuckDB takes no other names
        return tempfile.TemporaryDirectory(prefix=".inspect-", dir=out)
    except UnicodeEncodeError:
        return tempfile.TemporaryDirectory(prefix="vitstream-inspect-")
    except OSError as error:
        raise WorkFailed(f"{out}: cannot be written ({error.strerror}); give another folder with --out") from None
