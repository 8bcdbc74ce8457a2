"""Planning: list the sources, take what was asked for, decide each image's shard, store it all."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from data_prep import work
from data_prep.catalog.classes import read_class_list, resolve
from data_prep.catalog.listing import write_listing
from data_prep.catalog.plan import PlannedShard, PlannedSplit, count_shards, read_images, write_rows
from data_prep.catalog.select import catalogue, first_row, pick
from data_prep.common.workers import Advance, WorkerDied, Workers
from data_prep.options import Options
from data_prep.request import Request
from data_prep.shards.images import encode
from data_prep.shards.limits import Guard
from data_prep.shards.spool import SPLITS, Stream, streams_as_json, write_streams
from data_prep.sources.base import Source
from data_prep.views import parse_count
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json
from pipeline.dataset.images import ImageError
from pipeline.dataset.quantities import parse_limit

PROBED_IMAGES: Final = 32
UNPROBED_BYTES: Final = 100_000  # of an image, where neither the listing nor a probe says
Probe = tuple[tuple[Source, ...], PlannedShard, Path, Options]


def make_plan(
    request: Request, sources: tuple[Source, ...], folder: Path, pool: Workers, bytes_per_image: int | None = None
) -> work.Plan:
    """Plans, and stores the plan in the work folder. `bytes_per_image`: an estimate made before, instead of a new one.

    Raises:
        UsageError: sources or options cannot be used.
        WorkFailed: a remote source does not answer.
    """
    with work.planning(folder) as temporary:
        stored = work.read_plan(folder)
        if stored is not None:  # another task was faster
            return stored
        for left in (*SPLITS, "spool"):  # of a plan that somebody deleted, perhaps for other images
            shutil.rmtree(folder / left, ignore_errors=True)
        options = request.options
        listed = write_listing(sources, temporary, options.seed)
        rows_folder = temporary / "plan"
        rows_folder.mkdir()
        untyped = [i for i, source in enumerate(sources) if source.untyped and options.where is not None]
        with catalogue(temporary, untyped) as connection:
            pick(connection, options, request.keep)
            given = None if request.classes is None else read_class_list(request.classes)
            classes = resolve(connection, sources, given)
            counts = write_rows(connection, rows_folder, options, classes)
            known_bytes, known = first_row(
                connection, "SELECT CAST(sum(bytes) AS BIGINT), count(*) FROM picked WHERE bytes >= 0"
            )
        _check_subsets(request, next(iter(counts.values())))
        size, listed_size = bytes_per_image, known_bytes // known if known else None
        if options.as_is:
            size = size or listed_size
        if not size:
            first = PlannedShard(next(iter(counts)), 0, 0, min(PROBED_IMAGES, next(iter(counts.values()))))
            size = _probe(sources, first, rows_folder, options, pool) or listed_size or UNPROBED_BYTES
        splits = [PlannedSplit(n, count, count_shards(count, size, options.shard_size)) for n, count in counts.items()]
        streams: list[Stream] = []
        if any(source.streamed for source in sources):
            streams = write_streams(rows_folder, splits, [i for i, s in enumerate(sources) if s.streamed])
        write_json(rows_folder / "streams.json", streams_as_json(streams))
        shutil.rmtree(folder / "plan", ignore_errors=True)
        rows_folder.rename(folder / "plan")
        plan = work.Plan(
            asked=asked(request, sources) | {"images": listed.images, "listing": listed.digest},
            versions=work.versions(),
            bytes_per_image=size,
            splits=tuple(splits),
            classes=classes.names,
            labels=classes.labels,
            ignored=listed.ignored,
            streams=len(streams),
            max_rejects=request.max_rejects,
        )
        work.write_plan(folder, plan)
    return plan


def _check_subsets(request: Request, samples: int) -> None:
    """Raises UsageError now, not after days, where a subset might be larger than what the rejects leave."""
    sure = samples - parse_limit(request.max_rejects, samples, "--max-rejects")
    for size in request.options.subsets:
        parse_count(size, samples, "--subsets")
        try:
            parse_count(size, sure, "--subsets")
        except UsageError:
            left = f"of {samples:,} images, --max-rejects {request.max_rejects} may leave only {sure:,}"
            raise UsageError(f"--subsets {size}: {left}; choose a smaller subset, or fewer rejects") from None


def asked(request: Request, sources: Sequence[Source]) -> dict[str, Any]:
    """What dataset.json says was asked for, but for what the listing says."""
    return {"source": sorted(source.name for source in sources), **request.asked()}


def _probe(sources: tuple[Source, ...], first: PlannedShard, plan: Path, options: Options, pool: Workers) -> int | None:
    """Bytes of an encoded image, on average over the first few of the shuffle; None where none can be encoded."""

    def crashed(_: Probe, __: WorkerDied) -> int | None:
        return None

    task: Probe = (sources, first, plan, options)
    ((_, size),) = pool.run(_probe_images, [task], lambda count: None, crashed)
    return size


def _probe_images(task: Probe, advance: Advance) -> int | None:
    sources, first, plan, options = task
    sizes = []
    with Guard(plan / "probe.at", options.max_seconds) as guard:
        for position, image in enumerate(read_images(plan, first)):
            source = sources[image.source]
            if image.reject or source.streamed:
                continue
            try:
                data = source.read(image.place)
                guard.at(position)
                sizes.append(len(encode(data, options).data))
            except ImageError:
                continue
        streamed = {image.source: image.place.file for image in read_images(plan, first) if not image.reject}
        for number, file in streamed.items():
            if sources[number].streamed:
                sizes += _probe_stream(sources[number], file, options, guard)
    return sum(sizes) // len(sizes) if sizes else None


def _probe_stream(source: Source, file: str, options: Options, guard: Guard) -> list[int]:
    sizes: list[int] = []
    for position, (_, data) in enumerate(source.stream(file)):
        if position == PROBED_IMAGES:
            break
        guard.at(position)
        try:
            sizes.append(len(encode(data, options).data))
        except ImageError:
            continue
    return sizes
