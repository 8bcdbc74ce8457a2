"""`vitstream verify --repair`: what can be had from the rest is made again, to the very bytes that the manifest says.

index      from its shard: whatever it lists, its hash decides whether it is the right one
shard      from the source, where that is at hand (data_prep/repair.py)
catalogue  of an adopted dataset, from its shards; else only `vitstream shard` knows the paths
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.adopt.scan import SCANS, catalogue_rows
from data_prep.audit.dataset import Report, folders_of, verify
from data_prep.audit.finding import Finding
from data_prep.audit.shard import AdoptedLabels, index_rows, own_samples, read_labels
from data_prep.catalog.samples import CATALOGUE_NAME, REJECTS_NAME, Reject, join_rows, write_rows
from data_prep.foreign.packed import PackedSample
from data_prep.foreign.tars import BrokenTar
from data_prep.shards.tar import TarError
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.dataset.images import ImageError, read_header
from pipeline.dataset.index import write_index
from pipeline.dataset.manifest import File, Manifest, Shard, read_manifest
from pipeline.dataset.mds import MdsError
from pipeline.dataset.names import escape
from pipeline.dataset.row import IndexRow


@dataclass(frozen=True)
class Sources:
    """What a dataset was made of, for `rebuild_shards`."""

    names: tuple[str, ...] = ()
    keep: Path | None = None
    classes: Path | None = None


@dataclass(frozen=True)
class Repairs:
    """What was made again, and why the rest could not be: lines for a person."""

    made: tuple[str, ...]
    left: tuple[str, ...]


def repair(dataset: Path, findings: Sequence[Finding], sources: Sources, workers: int, bar: bool = False) -> Repairs:
    """Repairs what an audit found to be damaged. Only files whose hash comes out right take the damaged ones' places.

    Raises:
        UsageError: the sources are not those that the dataset was made of.
        WorkFailed: a shard comes out otherwise than it was, or nothing can be written.
    """
    made: list[str] = []
    left: list[str] = []
    for folder in folders_of(dataset):
        try:
            manifest = read_manifest(folder)
        except UsageError as error:
            left.append(f"{error}; a manifest cannot be made again")
            continue
        named = {finding.shard for finding in findings if finding.dataset == escape(str(folder))}
        damaged = [shard for shard in manifest.shards if shard.name in named]
        try:
            _repair_shards(folder, manifest, damaged, sources, workers, bar, made, left)
            for shard in damaged:
                _repair_index(folder, manifest, shard, made, left)
            _repair_catalogue(folder, manifest, made, left)
        except OSError as error:
            where = escape(str(error.filename or folder))
            raise WorkFailed(f"{where}: {error.strerror or error}; what is repaired is kept, run it again") from None
        if any(file.name == REJECTS_NAME and not _is_right(folder, file) for file in manifest.files):
            left.append(f"{folder}/{REJECTS_NAME}: nothing else says what was left out; make the dataset again for it")
    return Repairs(tuple(made), tuple(left))


def mend(dataset: Path, report: Report, sources: Sources, workers: int, bar: bool = False) -> tuple[Report, list[str]]:
    """Repairs, and audits again as before. Returns the new report, and a line for each thing done or left.

    Raises as `repair` does.
    """
    repairs = repair(dataset, report.findings, sources, workers, bar)
    again = verify(dataset, workers, bar, report.decode, report.decoding.seed)
    return again, [*(f"repaired: {line}" for line in repairs.made), *(f"left: {line}" for line in repairs.left)]


def _repair_shards(
    folder: Path,
    manifest: Manifest,
    damaged: Sequence[Shard],
    sources: Sources,
    workers: int,
    bar: bool,
    made: list[str],
    left: list[str],
) -> None:
    """Makes the shards whose file is damaged again, from the source."""
    names = [shard.name for shard in damaged if not _is_whole(folder, shard)]
    if not names:
        return
    advice = _where_else(folder, manifest)
    if advice is None and sources.names:
        from data_prep.repair import rebuild_shards

        rebuild_shards(folder, names, sources.names, sources.keep, sources.classes, workers, bar)
        made += [f"{folder}/shards/{name}: made again from the source" for name in names]
        return
    advice = advice or "restore it from a copy, or give what the dataset was made of: --repair --source SOURCE"
    left += [f"{folder}/shards/{name}: damaged; {advice}" for name in names]


def _where_else(folder: Path, manifest: Manifest) -> str | None:
    """What to do about a damaged shard that no source can help; None where one can."""
    if "views" in manifest.asked:
        return "this is a view: repair the dataset that it was made of"
    if manifest.container != "webdataset":
        return "vitstream did not make it: restore it from a copy"
    return None


def _repair_index(folder: Path, manifest: Manifest, shard: Shard, made: list[str], left: list[str]) -> None:
    name = f"shards/{shard.index_name}"
    said = {file.name: file for file in manifest.files}.get(name)
    if said is None or _is_right(folder, said) or not _is_whole(folder, shard):
        return
    if (folder / name).is_symlink():
        left.append(f"{folder}/{name}: a link to another dataset's: repair that one")
        return
    aside = folder / "shards" / f".{shard.index_name}.repair"
    try:
        for rows in _candidates(folder, manifest, shard):
            write_index(aside, rows)
            if _is_right(folder, replace(said, name=f"shards/{aside.name}")):
                aside.replace(folder / name)
                fsync_directory(folder / "shards")
                made.append(f"{folder}/{name}: made again from its shard")
                return
    except (TarError, BrokenTar, MdsError, UsageError, ImageError) as error:
        left.append(f"{folder}/{name}: its shard cannot be read ({error})")
        return
    finally:
        aside.unlink(missing_ok=True)
    left.append(f"{folder}/{name}: nothing in the shard says which samples it listed; make the dataset again")


def _candidates(folder: Path, manifest: Manifest, shard: Shard) -> Iterator[list[IndexRow]]:
    """What the index may have listed: all samples; of a view of the first ones, these; what the damaged one lists."""
    rows = _rows_of(folder, manifest, shard)
    if len(rows) == shard.samples:
        yield rows
    if len(rows) > shard.samples:
        yield rows[: shard.samples]
        with suppress(Exception):  # anything may be wrong with it
            keys = {row.key for row in index_rows(folder / "shards" / shard.index_name)}
            yield [row for row in rows if row.key in keys]


def _rows_of(folder: Path, manifest: Manifest, shard: Shard) -> list[IndexRow]:
    """A row for every sample in the shard."""
    path = folder / "shards" / shard.name
    if manifest.container != "webdataset":
        return [row for _, row in _adopted(path, manifest)]
    rows = []
    with path.open("rb") as file:
        for image, label in own_samples(file):
            header = read_header(image.data, 1 << 62)
            key, labels = image.name.partition(".")[0], read_labels(label) or ()
            rows.append(IndexRow(key, image.offset, len(image.data), labels, header.width, header.height))
    return rows


def _adopted(path: Path, manifest: Manifest) -> Iterator[tuple[PackedSample, IndexRow]]:
    labels_of = AdoptedLabels(manifest.classes, manifest.labels)
    for found in SCANS[manifest.container](path, path.name):
        labels = None if isinstance(found, Reject) else labels_of(found)
        if isinstance(found, PackedSample) and labels is not None:
            yield found, IndexRow(found.key, found.offset, found.size, labels, found.width, found.height)


def _repair_catalogue(folder: Path, manifest: Manifest, made: list[str], left: list[str]) -> None:
    said = {file.name: file for file in manifest.files}.get(CATALOGUE_NAME)
    if said is None or _is_right(folder, said):
        return
    if manifest.container == "webdataset":
        left.append(f"{folder}/{CATALOGUE_NAME}: only vitstream shard knows the paths; make the dataset again for it")
        return
    needed = [file for file in manifest.files if file.name not in (CATALOGUE_NAME, REJECTS_NAME)]
    if not all(_is_whole(folder, shard) for shard in manifest.shards) or not all(_is_right(folder, f) for f in needed):
        left.append(f"{folder}/{CATALOGUE_NAME}: made of the shards, which have to be whole first, and their indexes")
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".repair-") as parts:
        for number, shard in enumerate(manifest.shards):
            index = {row.offset for row in index_rows(folder / "shards" / shard.index_name)}
            every = _adopted(folder / "shards" / shard.name, manifest)
            found = [(sample, row.labels) for sample, row in every if row.offset in index]
            write_rows(Path(parts) / f"{number:08d}", catalogue_rows(shard.name, found))
        aside = Path(parts) / CATALOGUE_NAME
        join_rows(aside, (Path(parts) / f"{number:08d}" for number in range(len(manifest.shards))))
        if File.of(Path(parts), CATALOGUE_NAME).xxh3 != said.xxh3:
            left.append(f"{folder}/{CATALOGUE_NAME}: comes out otherwise than it was; make the dataset again")
            return
        aside.replace(folder / CATALOGUE_NAME)
        fsync_directory(folder)
    made.append(f"{folder}/{CATALOGUE_NAME}: made again from the shards")


def _is_whole(folder: Path, shard: Shard) -> bool:
    return _is_right(folder, File(f"shards/{shard.name}", shard.bytes, shard.xxh3))


def _is_right(folder: Path, said: File) -> bool:
    try:
        return File.of(folder, said.name) == said
    except OSError:
        return False
