"""`vitstream dedup`: hash every image once, choose, write the reports, and keep.parquet last."""

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from data_prep.common.progress import progress_bar
from data_prep.common.stopping import stoppable
from data_prep.common.unfinished import explained
from data_prep.common.workers import Workers
from data_prep.dedup.corpus import Corpus
from data_prep.dedup.hashes import Hashes
from data_prep.dedup.near import MAX_DISTANCE
from data_prep.dedup.page import PAGE_NAME, write_page
from data_prep.dedup.pairs import KEEP_NAME, PAIRS_NAME, Found, write_keep, write_pairs
from data_prep.dedup.report import REPORT_NAME, as_report
from data_prep.dedup.scan import is_done, read_parts, scan, tasks_of
from data_prep.dedup.select import select
from data_prep.dedup.work import WORK_NAME, agreed_folder, check_same
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import remove_abandoned, write_json
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.names import escape

KEPT: Final = "what was hashed is kept"


@dataclass(frozen=True)
class Deduplicated:
    """What `dedup` found, for the user: what report.json says."""

    report: dict[str, Any]
    was_complete: bool


def dedup(
    dataset: Path,
    out: Path,
    against: Sequence[Path] = (),
    distance: int | None = 4,
    workers: int = 1,
    bar: bool = False,
) -> Deduplicated:
    """Finds the duplicates in a DATASET and writes what stays into DIR, or goes on with it.

    Args:
        dataset: a DATASET folder.
        out: DIR, for keep.parquet, pairs.parquet, report.json and report.html.
        against: evaluation sets, DATASET folders too, of whose images nothing similar is to stay.
        distance: bits in which the perceptual hashes of near images may differ; None: equal images only.
        workers: processes.
        bar: whether to show progress on stderr.

    Raises:
        UsageError: a dataset or DIR cannot be used.
        WorkFailed: an image is not where its index says, a full disk, a dead worker. What is done is kept.
        StoppedResumable: SIGINT or SIGTERM.
    """
    if distance is not None and not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"--distance {distance}: expected 0 to {MAX_DISTANCE} bits of 64")
    corpora = [Corpus(folder, read_manifest(folder)) for folder in (*against, dataset)]
    asked = {
        "dataset": corpora[-1].name,
        "against": [corpus.name for corpus in corpora[:-1]],
        "distance": distance,
        "exact_only": distance is None,
    }
    if len(set(asked["against"])) < len(against):
        raise UsageError("--dedup-against: the same evaluation set twice")
    if asked["dataset"] in asked["against"]:
        raise UsageError(f"--dedup-against {dataset}: is DATASET itself; nothing of it would stay")
    with stoppable(KEPT):
        try:
            report = _finished(out, asked, corpora)
            if report is not None:
                return Deduplicated(report, was_complete=True)
            with agreed_folder(out, asked) as work:
                hashes = _hash(corpora, work, distance is None, workers, bar)
                report = _publish(out, asked, corpora, hashes, distance, workers)
                shutil.rmtree(work, ignore_errors=True)
            return Deduplicated(report, was_complete=False)
        except OSError as error:
            raise explained(error, out, KEPT) from None


def _hash(corpora: Sequence[Corpus], work: Path, exact_only: bool, workers: int, bar: bool) -> list[Hashes]:
    """The hashes of all datasets, the last of the corpus."""
    names = [*(f"against-{number}" for number in range(len(corpora) - 1)), "corpus"]
    tasks = []
    for name, corpus in zip(names, corpora, strict=True):
        (work / name).mkdir(exist_ok=True)
        tasks.append(tasks_of(corpus, exact_only, work / name))
    every = [task for listed in tasks for task in listed]
    for task in every:
        remove_abandoned(task.part)
    missing = [task for task in every if not is_done(task)]
    total = sum(task.shard.samples for task in every)
    done = total - sum(task.shard.samples for task in missing)
    with progress_bar("hashing", total, done, bar) as advance, Workers(workers) as pool:
        scan(missing, pool, advance)
    return [read_parts(listed) for listed in tasks]


def _publish(
    out: Path,
    asked: dict[str, Any],
    corpora: Sequence[Corpus],
    hashes: Sequence[Hashes],
    distance: int | None,
    workers: int,
) -> dict[str, Any]:
    """Chooses, and writes all of it; keep.parquet says that the rest is there."""
    corpus, mine = corpora[-1], hashes[-1]
    selection = select(mine, hashes[:-1], distance)
    found = [
        Found(other.name, corpus, other, matches)
        for other, matches in zip(corpora[:-1], selection.against, strict=True)
    ]
    found.append(Found("", corpus, corpus, selection.within))
    for name in (PAIRS_NAME, REPORT_NAME, PAGE_NAME, KEEP_NAME):
        remove_abandoned(out / name)
    conflicts = write_pairs(out / PAIRS_NAME, found)
    report = as_report(asked, mine, selection, found, conflicts)
    write_page(out / PAGE_NAME, report, found, workers)
    write_json(out / REPORT_NAME, report)
    write_keep(out / KEEP_NAME, corpus, selection.keep)
    return report


def _finished(out: Path, asked: dict[str, Any], corpora: Sequence[Corpus]) -> dict[str, Any] | None:
    """The report, where DIR is finished. Raises UsageError where it is, and for other arguments or images."""
    if not (out / KEEP_NAME).exists():
        return None
    path = out / REPORT_NAME
    try:
        report = json.loads(path.read_bytes())
        sets = [*report["against"], report["dataset"]]
        fingerprints = [one["fingerprint"] for one in sets]
        stored = report["asked"]
    except (OSError, ValueError, TypeError, KeyError):
        raise UsageError(f"{path}: not a report of vitstream dedup; choose another --out, or delete it") from None
    check_same(out, stored, asked)
    for corpus, fingerprint in zip(corpora, fingerprints, strict=True):
        if corpus.manifest.fingerprint != fingerprint:
            changed = f"{corpus.folder} has other images now than it was made for"
            raise UsageError(f"--out {out}: {changed}; choose another folder, or delete it")
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)  # stopped after keep.parquet was written
    return report


def as_json(out: Path, result: Deduplicated) -> str:
    """The result for a program: report.json, and where it is."""
    body = {"path": escape(str(out)), "was_complete": result.was_complete, **result.report}
    return json.dumps(body, ensure_ascii=False)


def as_lines(out: Path, result: Deduplicated) -> list[str]:
    """The result for a person."""
    report = result.report
    again = "finished already: " if result.was_complete else ""
    lines = [f"{out}: {again}{report['kept']:,} of {report['images']:,} images stay, {report['dropped']:,} go"]
    for name, found in (("within", report["within"]), *((f"as in {one['path']}", one) for one in report["against"])):
        kinds = f"{found['bytes']:,} of equal bytes, {found['pixels']:,} of equal pixels, {found['near']:,} near"
        label = f", {found['label_conflicts']:,} with other labels" if found["label_conflicts"] else ""
        lines.append(f"{name}: {kinds}{label}")
    if report["unreadable"]:
        advice = f"see: vitstream verify {report['dataset']['path']}"
        lines.append(f"{report['unreadable']:,} images cannot be decoded, and were compared by their bytes; {advice}")
    if not report["kept"]:
        return [*lines, f"see {out / PAGE_NAME}"]
    names = (shlex.quote(name) for name in (report["dataset"]["path"], str(out / KEEP_NAME)))
    lines.append(f"see {out / PAGE_NAME}; next: vitstream view {' --keep '.join(names)} --out OUT")
    return lines
