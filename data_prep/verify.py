"""`vitstream verify`: the full audit of a dataset, or of a pair of train/ and val/."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.audit import Audit, AuditTask, Finding, audit_shard
from data_prep.catalog import CATALOGUE_NAME, REJECTS_NAME
from data_prep.progress import progress_bar
from data_prep.work import WORK_NAME
from data_prep.workers import Workers
from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import MAX_PIXELS
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import key_hash
from pipeline.dataset.manifest import MANIFEST_NAME, Manifest, read_manifest


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
        WorkFailed: a worker died.
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
        findings.append(Finding(str(dataset), "", "", problem))
    samples = sum(task.shard.samples for task in tasks)
    audits: dict[AuditTask, Audit] = {}
    with progress_bar("verifying", samples, 0, bar) as advance, Workers(workers) as pool:
        for task, audit in pool.run(audit_shard, tasks, advance):
            audits[task] = audit
    for task in tasks:  # in their order, not in that of the workers
        findings += audits[task].findings
        if audits[task].more:
            findings.append(Finding(str(task.dataset), task.shard.name, "", f"and {audits[task].more:,} more samples"))
    findings += _duplicates([audits[task] for task in tasks])
    return Report(tuple(folders), len(tasks), samples, tuple(findings))


def as_json(report: Report) -> str:
    """The report for a program."""
    body = {
        "datasets": [str(folder) for folder in report.datasets],
        "shards": report.shards,
        "samples": report.samples,
        "findings": [vars(finding) for finding in report.findings],
    }
    return json.dumps(body)


def _folders(dataset: Path) -> list[Path]:
    """The dataset itself, or its train/ and val/."""
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
    if manifest.to_json() != json.loads((folder / MANIFEST_NAME).read_bytes()):
        problem = f"{MANIFEST_NAME} contradicts itself: its shards, its shardlist or its totals were edited"
        findings.append(Finding(str(folder), "", "", problem))
    return manifest


def _tasks(folder: Path, manifest: Manifest) -> list[AuditTask]:
    max_pixels = max(MAX_PIXELS, int(manifest.asked.get("max_pixels", 0)))
    return [
        AuditTask(folder, number, shard, len(manifest.classes), manifest.labels, max_pixels)
        for number, shard in enumerate(manifest.shards)
    ]


def _audit_files(folder: Path, manifest: Manifest) -> list[Finding]:
    """What lies around the shards: strange files among them, the catalogue, the rejects."""
    problems = []
    named = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    present = {path.name for path in (folder / "shards").iterdir()} if (folder / "shards").is_dir() else set()
    problems += [f"shards/{name} is not in the manifest" for name in sorted(present - named)]
    try:
        metadata = pq.read_metadata(folder / CATALOGUE_NAME)
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if groups != [shard.samples for shard in manifest.shards]:
            problems.append(f"{CATALOGUE_NAME} has {metadata.num_rows:,} rows, not one for each sample by shard")
    except (OSError, pa.ArrowException) as error:
        problems.append(f"{CATALOGUE_NAME} cannot be read: {str(error).splitlines()[0]}")
    try:
        for line in (folder / REJECTS_NAME).read_bytes().splitlines():
            json.loads(line)["reason"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{REJECTS_NAME} cannot be read: {error!r}")
    return [Finding(str(folder), "", "", problem) for problem in problems]


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
            keys = ShardIndex(task.dataset / "shards" / task.shard.index_name).keys()
            for key in keys:
                if key_hash(key) in twice:
                    where.setdefault(key, []).append(f"{task.dataset}/shards/{task.shard.name}")
    return [
        Finding("", "", key, f"is there {len(places)} times: in {', '.join(places)}")
        for key, places in where.items()
        if len(places) > 1
    ]
