"""The two passes of `vitstream shard` over a plan: files that are streamed, and shards that are made.

Both are lists of tasks for the worker processes, each with a record that says that it is done. An image at which a
worker crashes, or takes too long, is noted beside the record ("poison"), and its task begins again without it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from data_prep import work
from data_prep.catalog.plan import read_images, read_range
from data_prep.common.progress import progress_bar
from data_prep.common.stored import read_stored
from data_prep.common.workers import Advance, WorkerDied, Workers
from data_prep.publish import dataset_of, planned_shards
from data_prep.request import Request
from data_prep.shards.limits import read_position
from data_prep.shards.shard import ShardTask, make_shard
from data_prep.shards.spool import Stream, StreamTask, spool_stream
from data_prep.sources.base import Source
from pipeline.dataset.errors import StoppedResumable, WorkFailed
from pipeline.dataset.files import write_json

Task = TypeVar("Task", ShardTask, StreamTask)
_TOKEN = os.urandom(6).hex()


def stream(
    request: Request, sources: tuple[Source, ...], plan: work.Plan, folder: Path, pool: Workers, bar: bool
) -> tuple[Path, ...]:
    """Pass 1: this part of the files that can only be streamed. Returns the records of all of them.

    Raises:
        StoppedResumable: other tasks have not done theirs yet.
    """
    if plan.streams == 0:
        return ()
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    advice = f"delete {request.out} and start again"
    streams = read_stored(folder / "plan/streams.json", list[Stream], advice)
    if len(streams) != plan.streams:
        raise WorkFailed(f"{folder}/plan/streams.json: damaged; {advice}")
    tasks = [
        StreamTask(
            stream=stream,
            source=sources[stream.source],
            options=request.options,
            plan=folder / "plan",
            spool=spool,
            poison=_poison(spool, f"stream-{stream.number:06d}"),
            token=_TOKEN,
        )
        for stream in streams
    ]
    mine = tasks if request.slice is None else request.slice.of(tasks)
    missing = [task for task in mine if not task.done]
    total = sum(task.stream.stop - task.stream.start for task in mine)
    done = total - sum(task.stream.stop - task.stream.start for task in missing)
    with progress_bar("streaming", total, done, bar) as advance:
        for _ in _run(pool, spool_stream, missing, advance, _stream_key):
            pass
    waiting = [task.stream.file for task in tasks if not task.done]
    if waiting and request.stop_after is None:
        what = f"{len(waiting):,} of {len(tasks):,} files have not been streamed by the other tasks yet"
        raise StoppedResumable(f"{request.out}: {what}; run this task again when they are done")
    return tuple(task.record for task in tasks)


def shard_tasks(
    request: Request, sources: tuple[Source, ...], plan: work.Plan, folder: Path, spooled: tuple[Path, ...]
) -> list[ShardTask]:
    """This part of the shards, with their folders, which are made here."""
    every = [shard for split in plan.splits for shard in planned_shards(split)]
    for split in plan.splits:
        (folder / split.name).mkdir(exist_ok=True)
        (dataset_of(request.out, split.name) / "shards").mkdir(parents=True, exist_ok=True)
    return [
        ShardTask(
            planned=shard,
            sources=sources,
            options=request.options,
            labels=plan.labels,
            plan=folder / "plan",
            spooled=spooled,
            poison=_poison(folder / shard.split, shard.name.removesuffix(".tar")),
            token=_TOKEN,
            work=folder / shard.split,
            shards=dataset_of(request.out, shard.split) / "shards",
        )
        for shard in (every if request.slice is None else request.slice.of(every))
    ]


def make_shards(pool: Workers, tasks: Sequence[ShardTask], advance: Advance) -> Iterator[ShardTask]:
    """Pass 2: yields every shard as it is made. Raises as `_run`."""
    yield from _run(pool, make_shard, tasks, advance, _shard_key)


def _run(
    pool: Workers,
    function: Callable[[Task, Advance], None],
    tasks: Sequence[Task],
    advance: Advance,
    key_at: Callable[[Task, int], str],
) -> Iterator[Task]:
    """Runs all tasks. An image at which a worker crashed or took too long is noted, and its task begins again without.

    Raises:
        WorkerDied: a worker was killed, or crashed where it was at no image.
    """

    def crashed(task: Task, death: WorkerDied) -> str | None:
        position = read_position(task.position)
        if position is None or not death.crashed:
            raise death
        reason = f"took longer than {task.options.max_seconds} s" if death.timed_out else f"its decoder {death.how}"
        poison = task.poison | {key_at(task, position): reason}
        write_json(task.record.with_suffix(".poison"), poison)
        return reason

    waiting = list(tasks)
    while waiting:
        again = []
        for task, reason in pool.run(function, waiting, advance, crashed):
            if reason is None:
                yield task
            else:
                again.append(replace(task, poison=_poison(task.record.parent, task.record.stem)))
        waiting = again


def _shard_key(task: ShardTask, position: int) -> str:
    return [image.key for image in read_images(task.plan, task.planned)][position]


def _stream_key(task: StreamTask, position: int) -> str:
    rows = read_range(task.plan / "streams.parquet", task.stream.start, task.stream.stop)
    return rows.column("key")[position].as_py()


def _poison(folder: Path, stem: str) -> dict[str, str]:
    try:
        return read_stored(folder / f"{stem}.poison", dict[str, str])
    except FileNotFoundError:
        return {}
