"""`vitstream verify`: the full audit of a dataset, or of a pair of train/ and val/."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_prep.audit.shard import UNREADABLE, Audit, AuditTask, Finding, audit_shard, index_rows
from data_prep.catalog.samples import CATALOGUE_NAME, REJECTS_NAME
from data_prep.names import escape
from data_prep.progress import progress_bar
from data_prep.work import WORK_NAME
from data_prep.workers import WorkerDied, Workers
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import render_json
from pipeline.dataset.images import MAX_PIXELS
from pipeline.dataset.keys import key_hash
from pipeline.dataset.manifest import MANIFEST_NAME, File, Manifest, read_manifest


@dataclass(frozen=True)
class Report:
    """What an audit found, in the order of datasets and shards."""

    datasets: tuple[Path, ...]
    shards: int
    samples: int
    findings: tuple[Finding, ...]


def verify(dataset: Path, workers: int, bar: bool = False) -> Report:
    """Reads every byte of DATASET and compares everything that is said twice.

    Raises:
        UsageError: no dataset there.
        WorkFailed: a worker was killed.
    """
    folders = _folders(dataset)
    findings: list[Finding] = []
    tasks: list[AuditTask] = []
    for folder in folders:
        manifest = _manifest(folder, findings)
        if manifest is not None:
            findings += _audit_files(folder, manifest)
            tasks += _tasks(folder, manifest)
    if (dataset / WORK_NAME).exists():
        problem = f"{WORK_NAME} is left over: finish with the vitstream shard command that began it"
        findings.append(Finding(escape(str(dataset)), "", "", problem))
    samples = sum(task.shard.samples for task in tasks)
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
    return Report(tuple(folders), len(tasks), samples, tuple(findings))


def as_json(report: Report) -> str:
    """The report for a program."""
    body = {
        "datasets": [escape(str(folder)) for folder in report.datasets],
        "shards": report.shards,
        "samples": report.samples,
        "findings": [vars(finding) for finding in report.findings],
    }
    return json.dumps(body)


def _folders(dataset: Path) -> list[Path]:
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
        AuditTask(folder, number, shard, manifest.classes, manifest.labels, split, max_pixels)
        for number, shard in enumerate(manifest.shards)
    ]


def _audit_files(folder: Path, manifest: Manifest) -> list[Finding]:
    """What lies around the shards: strange files among them, the catalogue, the rejects."""
    problems = _audit_hashes(folder, manifest)
    named = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    present = {path.name for path in (folder / "shards").iterdir()} if (folder / "shards").is_dir() else set()
    problems += [f"shards/{escape(name)} is not in the manifest" for name in sorted(present - named)]
    try:
        with (folder / CATALOGUE_NAME).open("rb") as file:
            metadata = pq.read_metadata(file)
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if groups != [shard.samples for shard in manifest.shards]:
            problems.append(f"{CATALOGUE_NAME} has {metadata.num_rows:,} rows, not one for each sample by shard")
    except UNREADABLE as error:
        problems.append(f"{CATALOGUE_NAME} cannot be read: {str(error).splitlines()[0]}")
    try:
        for line in (folder / REJECTS_NAME).read_bytes().splitlines():
            json.loads(line)["reason"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{REJECTS_NAME} cannot be read: {error!r}")
    return [Finding(escape(str(folder)), "", "", problem) for problem in problems]


def _audit_hashes(folder: Path, manifest: Manifest) -> list[str]:
    """Whether indexes, catalogue and rejects are, to the byte, what the manifest says."""
    said = {file.name: file for file in manifest.files}
    problems = []
    for name in [*(f"shards/{shard.index_name}" for shard in manifest.shards), CATALOGUE_NAME, REJECTS_NAME]:
        try:
            found = File.of(folder, name)
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
            continue
        if name not in said:
            problems.append(f"{name} has no hash in the manifest: the dataset was not made by vitstream shard")
        elif found.xxh3 != said[name].xxh3:
            problems.append(f"{name}: its hash is {found.xxh3}, the manifest says {said[name].xxh3}")
    return problems


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
