"""`vitstream verify`: the full audit of a dataset, or of a pair of train/ and val/."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_prep.adopt.parts import WORK_NAME as INDEX_WORK_NAME
from data_prep.audit.finding import Audit, AuditTask, Decoding, Finding, why_unreadable
from data_prep.audit.sample import UNREADABLE
from data_prep.audit.shard import audit_shard, index_rows
from data_prep.catalog.samples import CATALOGUE_NAME, REJECTS_NAME
from data_prep.common.progress import progress_bar
from data_prep.common.workers import WorkerDied, Workers
from data_prep.work import WORK_NAME
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import open_regular, render_json
from pipeline.dataset.images import MAX_PIXELS
from pipeline.dataset.keys import key_hash
from pipeline.dataset.manifest import MANIFEST_NAME, File, Manifest, read_manifest
from pipeline.dataset.names import escape


@dataclass(frozen=True)
class Report:
    """What an audit found, in the order of datasets and shards."""

    datasets: tuple[Path, ...]
    shards: int
    samples: int
    decode: str  # of which images the pixels were decoded
    decoding: Decoding
    findings: tuple[Finding, ...]


def verify(dataset: Path, workers: int, bar: bool = False, decode: str = "all", seed: int = 0) -> Report:
    """Reads every byte of DATASET and compares everything that is said twice.

    `decode`: of which images every pixel is decoded, too: `all`, about so many, or a share; `seed` chooses them.

    Raises:
        UsageError: no dataset there, or `decode` is none of these.
        WorkFailed: a worker was killed.
    """
    folders = folders_of(dataset)
    findings: list[Finding] = []
    tasks: list[AuditTask] = []
    for folder in folders:
        manifest = _manifest(folder, findings)
        if manifest is not None:
            findings += _audit_files(folder, manifest)
            tasks += _tasks(folder, manifest)
    for name, verb in ((WORK_NAME, "shard"), (INDEX_WORK_NAME, "index")):
        if (dataset / name).exists():
            problem = f"{name} is left over: finish with the vitstream {verb} command that began it"
            findings.append(Finding(escape(str(dataset)), "", "", problem))
    samples = sum(task.shard.samples for task in tasks)
    decoding = Decoding.parse(decode, samples, seed)
    tasks = [replace(task, decoding=decoding) for task in tasks]
    audits: dict[AuditTask, Audit] = {}
    with progress_bar("verifying", samples, 0, bar) as advance, Workers(workers) as pool:
        for task, audit in pool.run(audit_shard, tasks, advance, _crashed):
            audits[task] = audit
    for task in tasks:  # in their order, not in that of the workers
        findings += audits[task].findings
        if audits[task].more:
            findings.append(
                Finding(escape(str(task.dataset)), task.shard.name, "", f"and {audits[task].more:,} more samples")
            )
    findings += _duplicates([audits[task] for task in tasks])
    return Report(tuple(folders), len(tasks), samples, decode, decoding, tuple(findings))


def as_line(report: Report) -> str:
    """A report without findings for a person."""
    images = "images" if report.decode == "all" else f"{report.decode} of the images"
    what = f"{report.samples:,} samples in {report.shards:,} shard{'s' * (report.shards != 1)}"
    return f"{what}: hashes, shards, indexes, catalogue and {images} agree, every key is there once"


def as_json(report: Report, repairs: Sequence[str] = ()) -> str:
    """The report for a program."""
    body = {
        "datasets": [escape(str(folder)) for folder in report.datasets],
        "shards": report.shards,
        "samples": report.samples,
        "decode": report.decode,
        "repairs": list(repairs),
        "findings": [vars(finding) for finding in report.findings],
    }
    return json.dumps(body)


def folders_of(dataset: Path) -> list[Path]:
    """The dataset itself, or its train/ and val/."""
    splits: list[Path] = []
    with suppress(OSError):  # a name too long, a folder that may not be entered: read_manifest says so
        if (dataset / MANIFEST_NAME).exists():
            return [dataset]
        splits = [dataset / name for name in ("train", "val") if (dataset / name / MANIFEST_NAME).exists()]
    if not splits:
        read_manifest(dataset)  # says what is wrong
    return splits


def _manifest(folder: Path, findings: list[Finding]) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except UsageError as error:
        findings.append(Finding("", "", "", str(error)))
        return None
    if render_json(manifest.to_json()) != (folder / MANIFEST_NAME).read_bytes():
        problem = f"{MANIFEST_NAME} contradicts itself: it is damaged, or was edited"
        findings.append(Finding(escape(str(folder)), "", "", problem))
    return manifest


def _tasks(folder: Path, manifest: Manifest) -> list[AuditTask]:
    asked = manifest.asked.get("max_pixels")
    max_pixels = max(MAX_PIXELS, asked if isinstance(asked, int) else 0)
    split = str(manifest.asked.get("split"))
    return [
        AuditTask(
            dataset=folder,
            number=number,
            shard=shard,
            classes=manifest.classes,
            labels=manifest.labels,
            split=split,
            max_pixels=max_pixels,
            container=manifest.container,
            partial=manifest.partial,
            catalogued=_is_there(folder, manifest, CATALOGUE_NAME),
        )
        for number, shard in enumerate(manifest.shards)
    ]


def _is_there(folder: Path, manifest: Manifest, name: str) -> bool:
    """Whether a dataset has this file, or ought to: views have neither catalogue nor rejects."""
    is_view = "views" in manifest.asked
    return not is_view or any(file.name == name for file in manifest.files) or (folder / name).exists()


def _audit_files(folder: Path, manifest: Manifest) -> list[Finding]:
    """What lies around the shards: strange files among them, the catalogue, the rejects."""
    findings = _audit_hashes(folder, manifest)
    named = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    present = {path.name for path in (folder / "shards").iterdir()} if (folder / "shards").is_dir() else set()
    problems = [f"shards/{escape(name)} is not in the manifest" for name in sorted(present - named)]
    if _is_there(folder, manifest, CATALOGUE_NAME):
        problems += _audit_catalogue(folder, manifest)
    if _is_there(folder, manifest, REJECTS_NAME):
        try:
            with open_regular(folder / REJECTS_NAME) as file:
                for line in file:
                    json.loads(line)["reason"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"{REJECTS_NAME} cannot be read: {error!r}")
    return findings + [Finding(escape(str(folder)), "", "", problem) for problem in problems]


def _audit_catalogue(folder: Path, manifest: Manifest) -> list[str]:
    try:
        with open_regular(folder / CATALOGUE_NAME) as file:
            metadata = pq.read_metadata(file)
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if groups != [shard.samples for shard in manifest.shards]:
            return [f"{CATALOGUE_NAME} has {metadata.num_rows:,} rows, not one for each sample by shard"]
    except UNREADABLE as error:
        return [f"{CATALOGUE_NAME} cannot be read: {str(error).splitlines()[0]}"]
    return []


def _audit_hashes(folder: Path, manifest: Manifest) -> list[Finding]:
    """Whether indexes, catalogue and rejects are, to the byte, what the manifest says."""
    said = {file.name: file for file in manifest.files}
    wanted = {f"shards/{shard.index_name}": shard.name for shard in manifest.shards}
    wanted |= {name: "" for name in (CATALOGUE_NAME, REJECTS_NAME) if _is_there(folder, manifest, name)}
    findings = []
    for name, shard in wanted.items():
        try:
            found = File.of(folder, name)
        except OSError as error:
            problem = f"{name} cannot be read: {why_unreadable(folder / name, error)}"
        else:
            if name not in said:
                problem = f"{name} has no hash in the manifest: the dataset was not made by vitstream"
            elif found.xxh3 != said[name].xxh3:
                problem = f"{name}: its hash is {found.xxh3}, the manifest says {said[name].xxh3}"
            else:
                continue
        findings.append(Finding(escape(str(folder)), shard, "", problem))
    return findings


def _crashed(task: AuditTask, death: WorkerDied) -> Audit:
    """The audit of a shard that no worker survived: whatever is wrong with it, it is not to be read."""
    audit = Audit(task)
    audit.add(f"cannot be audited: a worker process that read it {death.how}")
    return audit


def _duplicates(audits: Sequence[Audit]) -> list[Finding]:
    """Keys that are there twice, in one shard or in two, also in train and val."""
    if not audits:
        return []
    hashes = np.sort(np.concatenate([audit.hashes for audit in audits]))
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    where: dict[str, list[str]] = {}
    for audit in audits:  # by name now: two keys may share 64 bits
        if not twice.isdisjoint(audit.hashes.tolist()):
            task = audit.task
            for key in (row.key for row in index_rows(task.dataset / "shards" / task.shard.index_name)):
                if key_hash(key) in twice:
                    where.setdefault(key, []).append(f"{escape(str(task.dataset))}/shards/{task.shard.name}")
    return [
        Finding("", "", key, f"is there {len(places)} times: in {', '.join(places)}")
        for key, places in where.items()
        if len(places) > 1
    ]
