"""`vitstream shard`: plan, stream what can only be streamed, make the shards that are missing, write the manifest last.

Any number of processes on any number of machines may do this together (`--task i/n`): the plan says what each shard
holds, so it does not matter who makes it, or how often.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from data_prep import work
from data_prep.catalog.listing import digest
from data_prep.catalog.samples import REJECTS_NAME
from data_prep.common.progress import progress_bar
from data_prep.common.stopping import stoppable
from data_prep.common.unfinished import explained, unusable, work_folder
from data_prep.common.workers import Workers
from data_prep.planning import asked, make_plan
from data_prep.publish import (
    RejectLimit,
    check_whole,
    datasets,
    finished,
    is_done,
    publish,
    read_record,
    tidy,
)
from data_prep.publish import finalize as publish_all
from data_prep.request import Request
from data_prep.sources import open_sources
from data_prep.sources.base import Source
from data_prep.sources.opening import resolved
from data_prep.stages import make_shards, shard_tasks, stream
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.dataset.names import escape
from pipeline.dataset.remote.urls import is_url

KEPT = "all whole shards are kept"


@dataclass(frozen=True)
class Outcome:
    """What `shard` did, for the user. `datasets` is empty while there is only a part of them."""

    datasets: dict[Path, Manifest]
    rejects: dict[Path, int]
    ignored: dict[str, int]
    encoded: int  # images written in this run
    seconds: float
    was_complete: bool
    part: str | None = None  # what was done, where it was not all


def shard(request: Request, workers: int, bar: bool = False) -> Outcome:
    """Makes OUT from the sources, goes on with it, or does its part of it.

    Raises:
        UsageError: sources, options or OUT cannot be used, or OUT was begun with others.
        WorkFailed: too many rejects, a full disk, a dead worker, a source that does not answer. What is done is kept.
        StoppedResumable: SIGINT or SIGTERM.
    """
    request.options.check_values()
    start = monotonic()
    wanted = datasets(request.out, request.options.val_fraction)
    with stoppable(KEPT):
        sources = tuple(open_sources(request.sources, request.source_options))
        _check_apart(request)
        now = asked(request, sources)
        try:
            if _is_complete(request, sources, now):
                return _complete(wanted, start)
            encoded, part, ignored = _build(request, sources, now, workers, bar)
        except OSError as error:
            if _finished_by_another(request):
                return _complete(wanted, start)
            raise explained(error, request.out, KEPT) from None
    if part is not None:
        return Outcome({}, {}, ignored, encoded, monotonic() - start, False, part)
    return replace(_complete(wanted, start), ignored=ignored, encoded=encoded, was_complete=False)


def finalize(out: Path, max_rejects: str | None) -> Outcome:
    """Makes the dataset of what the tasks left in OUT.

    Raises:
        UsageError: nothing was begun there.
        WorkFailed: shards are missing, too many images were rejected, a full disk.
    """
    start = monotonic()
    with stoppable(KEPT):
        try:
            done_now = publish_all(out, max_rejects)
        except OSError as error:
            if not finished(out) or (out / work.WORK_NAME).exists():  # else another finalize was faster
                raise explained(error, out, KEPT) from None
            done_now = False
    return replace(_complete(finished(out), start), was_complete=not done_now)


def _complete(folders: Sequence[Path], start: float) -> Outcome:
    manifests = {folder: read_manifest(folder) for folder in folders}
    rejects = {folder: (folder / REJECTS_NAME).read_bytes().count(b"\n") for folder in manifests}
    return Outcome(manifests, rejects, {}, 0, monotonic() - start, True)


def _build(
    request: Request, sources: tuple[Source, ...], now: dict[str, Any], workers: int, bar: bool
) -> tuple[int, str | None, dict[str, int]]:
    """Does what is missing. Returns the number of images written in this run, what was done if not all, and what the
    listing passed over."""
    out = request.out
    with work_folder(out, "shard", shared=request.slice is not None) as folder, Workers(workers) as pool:
        plan = _plan(request, sources, now, folder, pool)
        if request.stop_after == "plan":
            shards = sum(split.shards for split in plan.splits)
            return 0, f"planned: {plan.samples:,} images in {shards:,} shards", plan.ignored
        streams = stream(request, sources, plan, folder, pool, bar)
        if request.stop_after == "stream":
            return 0, "streamed: this part of the sources", plan.ignored
        tasks = shard_tasks(request, sources, plan, folder, streams)
        planned = [task.planned for task in tasks]
        rejects = RejectLimit(folder, planned, request.max_rejects)
        done = rejects.resume([shard for shard in planned if is_done(folder, out, shard)])
        missing = [task for task in tasks if task.planned not in done]
        total, before = (sum(shard.samples for shard in some) for some in (planned, done))
        encoded = 0
        with progress_bar("sharding", total, before, bar) as advance:
            for task in make_shards(pool, missing, advance):
                rejects.add(task.planned)
                encoded += read_record(task.record).shard.samples
        if request.slice is not None:
            part = f"task {request.slice.number}/{request.slice.count}: {len(tasks):,} shards are made"
            return encoded, f"{part}; when all tasks are done: vitstream finalize {escape(str(out))}", plan.ignored
        publish(out, folder, plan, request.max_rejects)
    return encoded, None, plan.ignored


def _plan(request: Request, sources: tuple[Source, ...], now: dict[str, Any], folder: Path, pool: Workers) -> work.Plan:
    """The plan: the stored one, once it has been seen that it is for the same dataset; else a new one, stored.

    A task does not list the sources again: there may be thousands of tasks.
    """
    plan = work.read_plan(folder)
    if plan is not None:
        if request.slice is None:
            now = now | _listed(sources)
        work.check_asked(request.out, plan.asked, now)
        work.check_versions(request.out, plan.versions)
        return plan
    plan = make_plan(request, sources, folder, pool)
    work.check_asked(request.out, plan.asked, now)
    return plan


def _listed(sources: Sequence[Source]) -> dict[str, Any]:
    listed = digest(sources)
    return {"images": listed.images, "listing": listed.digest}


def _is_complete(request: Request, sources: Sequence[Source], now: dict[str, Any]) -> bool:
    """Whether OUT is finished. Raises UsageError where it is, or half is, and was asked for otherwise."""
    out = request.out
    wanted = datasets(out, request.options.val_fraction)
    try:
        present = [path for path in (out, out / "train", out / "val") if (path / MANIFEST_NAME).exists()]
    except OSError as error:
        raise unusable(out, error) from None
    if present and request.slice is None:
        now = now | _listed(sources)
    for path in present:
        work.check_asked(out, read_manifest(path).asked, now)
    unfinished = (out / work.WORK_NAME).exists()
    if present and present != wanted and not unfinished:
        missing = ", ".join(str(path) for path in wanted if path not in present)
        raise UsageError(f"{missing}: missing from a finished dataset; delete {out} and start again")
    if present != wanted:
        return False
    if unfinished and request.slice is None:  # stopped after the manifest was written
        with work_folder(out, "shard"):
            tidy(out, "train" if request.options.val_fraction else "all")
    for folder in wanted:
        check_whole(folder, out)
    return True


def _check_apart(request: Request) -> None:
    out = resolved(request.out)
    for name in request.sources:
        if not is_url(name) and out.is_relative_to(resolved(Path(name))):
            raise UsageError(f"--out {request.out}: lies inside SOURCE {name}; choose a folder outside it")


def _finished_by_another(request: Request) -> bool:
    """Whether a task found its work folder gone because everything is done."""
    wanted = datasets(request.out, request.options.val_fraction)
    gone = not (request.out / work.WORK_NAME).exists()
    return request.slice is not None and gone and all((folder / MANIFEST_NAME).exists() for folder in wanted)
