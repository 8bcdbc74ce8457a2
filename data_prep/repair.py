"""Shards made again from their sources, to the same bytes: what `vitstream verify --repair --source` does.

dataset.json says what was asked for, so the plan can be made again; a shard that comes out with another hash than the
manifest's is not put in place.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from data_prep import work
from data_prep.catalog.samples import REJECTS_NAME
from data_prep.common.progress import progress_bar
from data_prep.common.workers import Workers
from data_prep.options import Options
from data_prep.planning import make_plan
from data_prep.publish import Record, read_record
from data_prep.request import Request
from data_prep.sources import open_sources
from data_prep.sources.options import SourceOptions
from data_prep.stages import make_shards, shard_tasks, stream
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.names import escape

REPAIR_NAME: Final = ".repair-work"
_CRASH_REASONS: Final = ("took longer than", "its decoder ")


def rebuild_shards(
    dataset: Path,
    names: Sequence[str],
    sources: Sequence[str],
    keep: Path | None = None,
    classes: Path | None = None,
    workers: int = 1,
    bar: bool = False,
) -> None:
    """Makes the named shards of a dataset, and their indexes, again, from the sources that it was made of.

    Raises:
        UsageError: the dataset was not made by `vitstream shard`, or of other sources.
        WorkFailed: a shard came out otherwise: an image, or a library, is not what it was.
    """
    manifest = read_manifest(dataset)
    request = _request(dataset, manifest, sources, keep, classes)
    shutil.rmtree(request.out, ignore_errors=True)
    request.out.mkdir()
    try:
        opened = tuple(open_sources(request.sources, request.source_options))
        with Workers(workers) as pool:
            plan = make_plan(request, opened, request.out, pool, manifest.asked.get("bytes_per_image"))
            listed = {name: plan.asked[name] for name in ("images", "listing")}  # its folder may be called otherwise
            work.check_asked(dataset, manifest.asked, listed)
            spooled = stream(request, opened, plan, request.out, pool, bar)
            known = _crashed_before(dataset)
            tasks = [
                replace(task, poison=known)
                for task in shard_tasks(request, opened, plan, request.out, spooled)
                if task.planned.split == manifest.asked["split"] and task.planned.name in names
            ]
            with progress_bar("rebuilding", sum(t.planned.samples for t in tasks), 0, bar) as advance:
                for task in make_shards(pool, tasks, advance):
                    _put_in_place(dataset, manifest, task.planned.name, task.shards, read_record(task.record))
    finally:
        shutil.rmtree(request.out, ignore_errors=True)


def _request(
    dataset: Path, manifest: Manifest, sources: Sequence[str], keep: Path | None, classes: Path | None
) -> Request:
    asked = manifest.asked
    if "listing" not in asked or manifest.container != "webdataset" or manifest.partial:
        raise UsageError(f"{dataset}: was not made by vitstream shard; only what was can be made again from its source")
    for name, given in (("keep", keep), ("classes", classes)):
        if asked.get(name) and given is None:
            raise UsageError(f"{dataset}: was made with --{name}; give the same file again")
    options = Options(**_known(Options, asked) | ({"quality": 90} if asked.get("quality") is None else {}))
    return Request(
        sources=tuple(sources),
        out=dataset / REPAIR_NAME,
        options=options,
        source_options=SourceOptions(**_known(SourceOptions, asked)),
        keep=keep,
        classes=classes,
    )


def _known(kind: type, asked: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, as JSON had them; those that an older manifest lacks stay the default."""
    names = {field.name for field in fields(kind)} & asked.keys()
    return {name: tuple(asked[name]) if isinstance(asked[name], list) else asked[name] for name in names}


def _crashed_before(dataset: Path) -> dict[str, str]:
    """Images that no worker survived are left out again, unread: another machine might be luckier, or faster."""
    try:
        rejects = [json.loads(line) for line in (dataset / REJECTS_NAME).read_bytes().splitlines()]
        return {r["key"]: r["reason"] for r in rejects if r["reason"].startswith(_CRASH_REASONS)}
    except (OSError, ValueError, KeyError):
        return {}


def _put_in_place(dataset: Path, manifest: Manifest, name: str, made: Path, record: Record) -> None:
    wanted = {shard.name: shard for shard in manifest.shards}[name]
    if record.shard.xxh3 != wanted.xxh3:
        why = "an image, or a library that encodes, is not what it was"
        raise WorkFailed(f"{escape(str(dataset))}/shards/{name}: comes out otherwise ({why}); left as it is")
    for file in (wanted.name, wanted.index_name):
        (made / file).replace(dataset / "shards" / file)
    fsync_directory(dataset / "shards")
