"""`vitstream index`: look through every shard, agree on the classes, publish indexes, and the manifest last."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
import xxhash

from data_prep.adopt.classes import resolve
from data_prep.adopt.parts import WORK_NAME, Part, Stamp, read_keys, read_part
from data_prep.adopt.scan import (
    Published,
    PublishTask,
    ScanTask,
    catalogue_part,
    publish_shard,
    scan_shard,
)
from data_prep.adopt.shards import Given, find_shards
from data_prep.catalog.classes import read_class_list
from data_prep.catalog.samples import CATALOGUE_NAME, REJECTS_NAME, join_rows, write_rejects
from data_prep.common.keylists import pack
from data_prep.common.progress import progress_bar
from data_prep.common.stopping import stoppable
from data_prep.common.unfinished import explained, work_folder
from data_prep.common.workers import WorkerDied, Workers
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import canonical_json, fsync_directory, remove_abandoned
from pipeline.dataset.manifest import MANIFEST_NAME, File, Manifest, read_manifest, write_manifest
from pipeline.dataset.names import escape
from pipeline.dataset.quantities import parse_limit

KEPT: Final = "what was read is kept"


@dataclass(frozen=True)
class Adopted:
    """What `index` did, for the user."""

    manifest: Manifest
    rejects: int
    seconds: float
    was_complete: bool


def adopt(
    paths: Sequence[Path], out: Path, classes: Path | None, max_rejects: str, workers: int, bar: bool = False
) -> Adopted:
    """Makes OUT a dataset of these tars, or of an MDS folder, or goes on with it.

    Raises:
        UsageError: a shard, the class list or OUT cannot be used.
        WorkFailed: too many rejects, a full disk, a dead worker. What is done is kept.
        StoppedResumable: SIGINT or SIGTERM.
    """
    start = monotonic()
    parse_limit(max_rejects, 1, "--max-rejects")  # before hours of work
    given = find_shards(paths)
    names = given.classes if classes is None else read_class_list(classes)
    asked = _asked(given, names)
    with stoppable(KEPT):
        try:
            complete = _is_complete(out, given, asked)
            if not complete:
                with work_folder(out, "index") as work, Workers(workers) as pool:
                    _build(given, out, names, asked, max_rejects, work, pool, bar)
                shutil.rmtree(out / WORK_NAME)
        except OSError as error:
            raise explained(error, out, KEPT) from None
    rejects = (out / REJECTS_NAME).read_bytes().count(b"\n")
    return Adopted(read_manifest(out), rejects, monotonic() - start, complete)


def _build(
    given: Given,
    out: Path,
    names: tuple[str, ...] | None,
    asked: dict[str, Any],
    max_rejects: str,
    work: Path,
    pool: Workers,
    bar: bool,
) -> None:
    parts = _scan(given, work, pool, bar)
    labelling = resolve(parts, names)
    _clear(out)
    twice = _duplicates(work, parts)
    tasks = [
        PublishTask(shard.name, shard.path.absolute(), work, out, labelling, twice.get(number, {}))
        for number, shard in enumerate(given.shards)
    ]
    done: dict[str, Published] = {}
    for task, published in pool.run(publish_shard, tasks, lambda count: None):
        done[task.name] = published
    ordered = [done[shard.name] for shard in given.shards]
    rejects = [reject for published in ordered for reject in published.rejects]
    write_rejects(out / REJECTS_NAME, rejects)
    total = sum(part.samples + len(part.rejects) for part in parts)
    if len(rejects) > parse_limit(max_rejects, total, "--max-rejects"):
        why = f"{len(rejects):,} of {total:,} samples cannot be used; the first: {rejects[0].source}"
        advice = f"all listed in {out / REJECTS_NAME}; to go on without them, run again with a higher --max-rejects"
        raise WorkFailed(f"{why}: {rejects[0].reason}; {advice}")
    used = [published for published in ordered if published.shard is not None]
    if not used:
        raise WorkFailed(f"{out}: no sample can be used" if total else f"{given.shards[0].path}: no images in it")
    join_rows(out / CATALOGUE_NAME, (catalogue_part(work, p.shard.name) for p in used if p.shard))
    fsync_directory(out)
    files = [p.index for p in used if p.index]
    files += [File.of(out, name) for name in (CATALOGUE_NAME, REJECTS_NAME)]
    shards = tuple(p.shard for p in used if p.shard)
    manifest = Manifest(
        labelling.classes, labelling.kind, shards, asked, tuple(files), given.container, partial=bool(rejects)
    )
    write_manifest(out, manifest)


def _scan(given: Given, work: Path, pool: Workers, bar: bool) -> list[Part]:
    """What is in every shard. Raises UsageError, naming the first few, where some cannot be used."""
    found = {shard.name: read_part(work, shard.name) for shard in given.shards}
    tasks, done = [], 0
    for shard in given.shards:
        part = found[shard.name]
        if part is not None and part.stamp == Stamp.of(shard.path):
            done += part.samples
        else:
            tasks.append(ScanTask(shard.name, shard.path, given.container, work))
    problems: dict[str, str] = {}

    def crashed(task: ScanTask, death: WorkerDied) -> str:
        return f"{task.path}: a worker process that read it {death.how}"

    with progress_bar("indexing", given.samples, done, bar) as advance:
        for task, problem in pool.run(scan_shard, tasks, advance, crashed):
            if problem is not None:
                problems[task.name] = problem
    if problems:
        ordered = [problems[shard.name] for shard in given.shards if shard.name in problems]
        more = f"; and {len(ordered) - 3:,} more cannot be used" if len(ordered) > 3 else ""
        raise UsageError("; ".join(ordered[:3]) + more)
    parts = [read_part(work, shard.name) for shard in given.shards]
    assert all(parts)
    return [part for part in parts if part]


def _clear(out: Path) -> None:
    """Removes what one that was killed left, of these shards or of others: until the manifest stands it is nobody's."""
    shutil.rmtree(out / "shards", ignore_errors=True)
    (out / "shards").mkdir()
    for name in (CATALOGUE_NAME, REJECTS_NAME, MANIFEST_NAME):
        remove_abandoned(out / name)


def _duplicates(work: Path, parts: Sequence[Part]) -> dict[int, dict[int, str]]:
    """Number of the part -> row -> where the same key was first. Of samples with one key, the first counts."""
    keys = np.concatenate([pack(read_keys(work, part.shard)) for part in parts])
    order = np.argsort(keys, kind="stable")
    starts = np.concatenate([[0], np.cumsum([part.samples for part in parts])])
    same = keys[order[1:]] == keys[order[:-1]]
    found: dict[int, dict[int, str]] = {}
    first = -1
    for place in np.flatnonzero(same):
        if place == 0 or not same[place - 1]:
            first = int(order[place])
        row = int(order[place + 1])
        earlier, later = (int(np.searchsorted(starts, at, side="right")) - 1 for at in (first, row))
        found.setdefault(later, {})[row - int(starts[later])] = escape(parts[earlier].shard)
    return found


def _asked(given: Given, classes: tuple[str, ...] | None) -> dict[str, Any]:
    listing = [[escape(shard.name), shard.bytes] for shard in given.shards]
    return {
        "adopted": len(given.shards),
        "listing": xxhash.xxh3_128_hexdigest(canonical_json(listing)),
        "classes": None if classes is None else xxhash.xxh3_128_hexdigest(canonical_json(classes)),
        "split": "all",
    }


def _is_complete(out: Path, given: Given, asked: dict[str, Any]) -> bool:
    """Whether OUT is finished. Raises UsageError where it is, and of other shards or classes."""
    if not (out / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(out)
    if manifest.asked != asked or manifest.container != given.container:
        raise UsageError(f"{out}: holds a dataset of other shards or classes; choose another --out, or delete it")
    for shard in manifest.shards:
        path = out / "shards" / shard.name
        if not path.exists() or path.stat().st_size != shard.bytes:
            raise UsageError(f"{path}: not what was indexed; see vitstream verify {out}, or delete {out}")
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)  # stopped after the manifest was written
    return True


def as_json(out: Path, adopted: Adopted) -> str:
    """The result for a program."""
    manifest = adopted.manifest
    body = {
        "path": escape(str(out)),
        "samples": manifest.samples,
        "classes": len(manifest.classes),
        "labels": manifest.labels,
        "container": manifest.container,
        "shards": len(manifest.shards),
        "rejects": adopted.rejects,
        "fingerprint": manifest.fingerprint,
        "seconds": round(adopted.seconds, 3),
        "was_complete": adopted.was_complete,
    }
    return json.dumps(body)


def as_lines(out: Path, adopted: Adopted) -> list[str]:
    """The result for a person."""
    manifest = adopted.manifest
    count, kind = len(manifest.shards), {"tar": "tar", "mds": "MDS shard"}[manifest.container]
    classes = f"{len(manifest.classes):,} classes" if manifest.classes else "without labels"
    lines = [f"{out}: {manifest.samples:,} images, {classes}, in {count:,} {kind}{'s' * (count != 1)}"]
    if adopted.rejects:
        lines.append(f"left out: {adopted.rejects:,} samples, see {out / REJECTS_NAME}")
    if adopted.was_complete:
        return [*lines, "complete already: nothing to do"]
    return [*lines, f"{adopted.seconds:.1f} s: {manifest.samples / max(adopted.seconds, 1e-9):,.0f} images/s"]
