"""The commit protocol: a checkpoint is published whole or not at all.

    1. rank 0 makes step-N.tmp-ATTEMPT/, where there is room for what the ranks are going to write
    2. every rank writes its slices into it, fsyncs, and reports its files' bytes and hashes
    3. rank 0 writes manifest.json there, fsyncs, renames the folder to step-N/, fsyncs the parent

A kill before the rename leaves a temporary folder, which the next attempt removes; after it, the checkpoint stands.
There is no `latest` file that could be wrong: the newest folder that verifies is the newest checkpoint.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pipeline.checkpoint.files import bytes_of, shares, write_slices
from pipeline.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, Piece, step_name
from pipeline.checkpoint.retention import set_aside
from pipeline.checkpoint.state import Slice
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.dataset.names import one_line
from pipeline.dataset.quantities import human_bytes
from pipeline.distributed import World

_SPARE_BYTES: Final = 2**20  # for headers and the manifest, on top of the tensors
_FILE_BYTES: Final = 2**29  # a rank with more writes several files: one SHA-256 is slower than a good disk
_THREADS: Final = 2  # files written at a time


def save(
    checkpoints: Path,
    attempt: int,
    world: World,
    slices: list[Slice],
    facts: dict[str, Any],
    before_writing: Callable[[], None],
) -> Path:
    """Writes and publishes one checkpoint; every rank calls it. `facts` are the manifest's fields (rank 0's count).

    `before_writing` runs on rank 0; if it fails, nothing is written.

    Raises:
        WorkFailed: on every rank, if any could not do its part; what was there before stays untouched.
    """
    target = checkpoints / step_name(facts["step"])
    temporary = checkpoints / f"{target.name}.tmp-{attempt:03d}"
    sizes = world.all_gather(bytes_of(slices))

    def begin() -> dict[str, Any]:
        before_writing()
        checkpoints.mkdir(exist_ok=True)  # but not its parents: without them, a disk is no longer mounted there
        shutil.rmtree(temporary, ignore_errors=True)
        _require_space(checkpoints, sum(sizes) + len(sizes) * _SPARE_BYTES)
        temporary.mkdir()
        return {}

    def publish() -> dict[str, Any]:
        _publish(temporary, target, attempt, reports, facts)
        return {}

    outcome = world.broadcast(_guarded(begin, world) if world.is_main else None)
    if "error" not in outcome:
        reports = world.all_gather(_guarded(lambda: _write_rank(temporary, world, slices), world))
        outcome = next((report for report in reports if "error" in report), {})
    if "error" not in outcome:
        outcome = world.broadcast(_guarded(publish, world) if world.is_main else None)
    if "error" in outcome:
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise WorkFailed(f"checkpoint {target.name} was not written: {outcome['error']}")
    return target


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        why = f"No space left: it takes {human_bytes(needed)}, and {human_bytes(free)} are free"
        raise OSError(errno.ENOSPC, why, str(folder))


def _write_rank(temporary: Path, world: World, slices: list[Slice]) -> dict[str, Any]:
    parts = shares(slices, _FILE_BYTES)
    paths = [temporary / f"rank-{world.rank:05d}{f'-{part}' if part else ''}.safetensors" for part in range(len(parts))]
    with ThreadPoolExecutor(_THREADS, "checkpoint-file") as pool:
        written = list(pool.map(_write_file, paths, parts))
    with _named(temporary):
        fsync_directory(temporary)
    tensors: dict[str, list[Piece]] = {}
    for _, pieces in written:
        _add(tensors, pieces)
    shapes = {part.name: part.shape for part in slices}
    return {"files": [file for file, _ in written], "shapes": shapes, "tensors": tensors}


def _write_file(path: Path, slices: list[Slice]) -> tuple[dict[str, Any], dict[str, list[Piece]]]:
    with _named(path):
        return write_slices(path, slices)


def _add(tensors: dict[str, list[Piece]], pieces: dict[str, list[Piece]]) -> None:
    for key, more in pieces.items():
        tensors.setdefault(key, []).extend(more)


def _publish(temporary: Path, target: Path, attempt: int, reports: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    shapes: dict[str, list[int]] = {}
    tensors: dict[str, list[Piece]] = {}
    for report in reports:
        shapes |= report["shapes"]
        _add(tensors, report["tensors"])
    files = [file for report in reports for file in report["files"]]
    manifest = CheckpointManifest(**facts, files=files, shapes=shapes, tensors=tensors)
    with _named(temporary / MANIFEST_NAME):
        manifest.write(temporary)
    if target.exists():  # damaged, or we would have gone on from it; and it could not be set aside then
        set_aside(target, attempt)
    temporary.rename(target)
    with _named(target.parent):
        fsync_directory(target.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A failed write or fsync does not say of which file; this does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _guarded(work: Callable[[], dict[str, Any]], world: World) -> dict[str, Any]:
    """The work's report, or its failure as one: no rank may leave the others waiting in a collective."""
    try:
        return work()
    except Exception as error:
        return {"error": f"rank {world.rank} on {world.host}: {_said(error)}"}


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({os.fsdecode(error.filename)})' if error.filename else ''}"
    return str(error) if isinstance(error, UsageError | WorkFailed) else one_line(f"{type(error).__name__}: {error}")
