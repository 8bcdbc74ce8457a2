"""`vitstream shard`: list, plan, make the shards that are missing, and write the manifest last."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from time import monotonic
from typing import Any, Final

from data_prep import work
from data_prep.catalog.plan import PlannedShard, asked, plan
from data_prep.catalog.samples import CATALOGUE_NAME, REJECTS_NAME, Reject, join_rows, write_rejects
from data_prep.names import escape
from data_prep.options import Options
from data_prep.progress import progress_bar
from data_prep.quantities import parse_limit
from data_prep.shards.images import encode, read_source
from data_prep.shards.shard import ShardTask, make_shard
from data_prep.sources.folder import Listing, SourceImage, list_images, resolved
from data_prep.workers import Advance, Workers
from pipeline.dataset.errors import StoppedResumable, UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.dataset.images import ImageError
from pipeline.dataset.keys import keyed_hash
from pipeline.dataset.manifest import MANIFEST_NAME, File, Manifest, Shard, read_manifest, write_manifest

PROBED_IMAGES: Final = 32


@dataclass(frozen=True)
class Outcome:
    """What `shard` did, for the user."""

    datasets: dict[Path, Manifest]
    rejects: dict[Path, int]
    ignored: dict[str, int]
    encoded: int  # images written in this run
    seconds: float
    was_complete: bool


def shard(
    sources: Sequence[Path], out: Path, options: Options, max_rejects: str, workers: int, bar: bool = False
) -> Outcome:
    """Makes OUT from the sources, or goes on with it.

    Raises:
        UsageError: sources, options or OUT cannot be used, or OUT was begun with others.
        WorkFailed: too many rejects, a full disk, a dead worker. What is done is kept.
        StoppedResumable: SIGINT or SIGTERM.
    """
    options.check_values()
    start = monotonic()
    with _stoppable():
        listing = list_images(sources)
        _check_apart(listing, out)
        limit = parse_limit(max_rejects, len(listing.images), "--max-rejects")
        try:
            was_complete = _is_complete(out, asked(listing, options))
        except OSError as error:
            raise work.unusable(out, error) from None
        if was_complete:
            encoded = 0
            for folder in _folders(out, options):
                _check_whole(folder, out)
            if (out / work.WORK_NAME).exists():  # stopped after the manifest was written
                work.remove(out / work.WORK_NAME)
        else:
            try:
                encoded = _build(listing, out, options, limit, workers, bar)
            except OSError as error:
                raise _explained(error, out) from None
    manifests = {folder: read_manifest(folder) for folder in _folders(out, options)}
    rejects = {folder: (folder / REJECTS_NAME).read_bytes().count(b"\n") for folder in manifests}
    return Outcome(manifests, rejects, listing.ignored, encoded, monotonic() - start, was_complete)


def _build(listing: Listing, out: Path, options: Options, limit: int, workers: int, bar: bool) -> int:
    """Does what is missing. Returns the number of images written in this run."""
    with work.work_folder(out) as folder, Workers(workers) as pool:
        planned = _planned(listing, out, folder, options, pool)
        tasks = [_task(shard, listing, out, folder, options) for shard in planned]
        rejects: Counter[str] = Counter()
        for task in tasks:
            rejects.update(_reasons(task))
        missing = [task for task in tasks if not _is_done(task)]
        _check_rejects(rejects, limit, folder, tasks)
        total = len(listing.images)
        done = total - sum(len(task.planned.images) for task in missing)
        with progress_bar("sharding", total, done, bar) as advance:
            for task, _ in pool.run(make_shard, missing, advance):
                rejects.update(_reasons(task))
                _check_rejects(rejects, limit, folder, tasks)
        encoded = sum(_record(task)["shard"]["samples"] for task in missing)
        for target in _folders(out, options):
            _publish(target, [task for task in tasks if task.shards.parent == target], listing, options)
        work.remove(folder)
    return encoded


def _planned(listing: Listing, out: Path, folder: Path, options: Options, pool: Workers) -> list[PlannedShard]:
    """The plan: the stored one, once it has been seen that it is for the same dataset; else a new one, stored."""
    now = asked(listing, options)
    stored = work.read_plan(folder)
    if stored is not None:
        work.check_asked(out, stored["asked"], now)
        work.check_versions(out, stored["versions"])
        return plan(listing, options, stored["bytes_per_image"])
    if options.as_is:
        bytes_per_image = sum(image.bytes for image in listing.images) // len(listing.images)
    else:
        first = nsmallest(PROBED_IMAGES, listing.images, key=lambda i: (keyed_hash(i.key, options.seed), i.key))
        ((_, bytes_per_image),) = pool.run(_probe, [(listing.roots, first, options)], lambda count: None)
    planned = plan(listing, options, bytes_per_image)
    work.write_plan(folder, now, bytes_per_image)
    return planned


def _probe(task: tuple[Sequence[Path], Sequence[SourceImage], Options], advance: Advance) -> int:
    """Bytes of an encoded image, on average over a few; of a listed one where none of them can be encoded."""
    roots, images, options = task
    sizes = []
    for image in images:
        try:
            sizes.append(len(encode(read_source(roots[image.source], image), options).data))
        except ImageError:
            continue
    sizes = sizes or [image.bytes for image in images]
    return sum(sizes) // len(sizes)


def _task(planned: PlannedShard, listing: Listing, out: Path, folder: Path, options: Options) -> ShardTask:
    """A planned shard with its folders, which are made here."""
    target = out if planned.split == "all" else out / planned.split
    task = ShardTask(planned, listing.roots, options, folder / planned.split, target / "shards")
    for path in (task.work, task.shards):
        path.mkdir(parents=True, exist_ok=True)
    return task


def _publish(dataset: Path, tasks: Sequence[ShardTask], listing: Listing, options: Options) -> None:
    """Catalogue, rejects, and last the manifest."""
    records = [_record(task) for task in tasks]
    shards = tuple(Shard(**record["shard"]) for record in records if record["shard"]["samples"])
    if not shards:
        raise WorkFailed(f"{dataset}: every one of its images was rejected")
    join_rows(
        dataset / CATALOGUE_NAME,
        (t.path(".parquet") for t, r in zip(tasks, records, strict=True) if r["shard"]["samples"]),
    )
    write_rejects(dataset / REJECTS_NAME, _rejects(tasks))
    fsync_directory(dataset.parent)
    what = asked(listing, options) | {"split": tasks[0].planned.split}
    files = [File(**record["index"]) for record in records if record["shard"]["samples"]]
    files += [File.of(dataset, name) for name in (CATALOGUE_NAME, REJECTS_NAME)]
    write_manifest(dataset, Manifest(listing.classes, "single", shards, what, tuple(files)))


def _is_complete(out: Path, now: dict[str, Any]) -> bool:
    """Whether OUT is finished. Raises UsageError where it is, or half is, and was asked for otherwise."""
    wanted = [out / "train", out / "val"] if now["val_fraction"] else [out]
    present = [path for path in (out, out / "train", out / "val") if (path / MANIFEST_NAME).exists()]
    for path in present:
        work.check_asked(out, read_manifest(path).asked, now)
    if present and present != wanted and not (out / work.WORK_NAME).exists():
        missing = ", ".join(str(path) for path in wanted if path not in present)
        raise UsageError(f"{missing}: missing from a finished dataset; delete {out} and start again")
    return present == wanted


def _check_whole(dataset: Path, out: Path) -> None:
    """Raises UsageError where a file of a finished dataset is gone or has another size."""
    manifest = read_manifest(dataset)
    sizes = {f"shards/{shard.name}": shard.bytes for shard in manifest.shards}
    sizes |= {file.name: file.bytes for file in manifest.files}
    for name, size in sizes.items():
        try:
            found = (dataset / name).stat().st_size
        except OSError as error:
            raise UsageError(f"{dataset / name}: {error.strerror}; delete {out} and start again") from None
        if found != size:
            wrong = f"has {found:,} bytes, {MANIFEST_NAME} says {size:,}"
            raise UsageError(f"{dataset / name}: {wrong}; delete {out} and start again")


def _check_apart(listing: Listing, out: Path) -> None:
    for root in listing.roots:
        if resolved(out).is_relative_to(root):
            raise UsageError(f"--out {out}: lies inside SOURCE {root}; choose a folder outside it")


def _check_rejects(rejects: Counter[str], limit: int, folder: Path, tasks: Sequence[ShardTask]) -> None:
    """Raises WorkFailed where there are more than allowed, once they are listed where the user can see them."""
    count, total = rejects.total(), sum(len(task.planned.images) for task in tasks)
    if count <= limit:
        return
    path = folder / REJECTS_NAME
    write_rejects(path, _rejects(tasks))
    reason, times = rejects.most_common(1)[0]
    why = f"{count:,} of {total:,} images rejected so far, {limit:,} allowed; mostly: {reason} ({times:,})"
    raise WorkFailed(f"{why}; all listed in {path}; to go on all the same, run again with a higher --max-rejects")


def _rejects(tasks: Sequence[ShardTask]) -> Iterator[Reject]:
    for task in tasks:
        if task.record.exists():
            yield from (Reject(**reject) for reject in _record(task)["rejects"])


def _reasons(task: ShardTask) -> list[str]:
    """Kinds of rejects of a shard that is done: the reasons up to their details."""
    return [reject.reason.partition(":")[0] for reject in _rejects([task])]


def _record(task: ShardTask) -> dict[str, Any]:
    return json.loads(task.record.read_bytes())


def _is_done(task: ShardTask) -> bool:
    """Whether the shard has its record, and is where the record says."""
    if not task.record.exists():
        return False
    shard = Shard(**_record(task)["shard"])
    tar, index = task.shards / shard.name, task.shards / shard.index_name
    whole = tar.exists() and index.exists() and tar.stat().st_size == shard.bytes
    return shard.samples == 0 or whole


def _folders(out: Path, options: Options) -> list[Path]:
    return [out / "train", out / "val"] if options.val_fraction else [out]


def _explained(error: OSError, out: Path) -> WorkFailed:
    if error.errno in work.DISK_FULL:
        return WorkFailed(f"{out}: no space left; all whole shards are kept: make room and run the same again")
    where = escape(str(error.filename or out))
    return WorkFailed(f"{where}: {error.strerror or error}; all whole shards are kept: run the same again to continue")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into StoppedResumable, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        name = signal.Signals(number).name
        raise StoppedResumable(f"stopped by {name}; all whole shards are kept: run the same command again to continue")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
