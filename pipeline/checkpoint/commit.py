"""The commit protocol: a checkpoint is published whole or not at all.

    1. every rank writes its slices into step-N.tmp-ATTEMPT/, fsyncs, and reports (file, bytes, SHA-256)
    2. rank 0 writes manifest.json there, fsyncs, renames the folder to step-N/, fsyncs the parent
    3. only then are older checkpoints pruned

A kill before the rename leaves a temporary folder, which the next attempt removes; after it, the checkpoint stands.
There is no `latest` file that could be wrong: the newest folder that verifies is the newest checkpoint.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.checkpoint.files import sha256, write_slices
from pipeline.checkpoint.manifest import CheckpointManifest, published, step_name
from pipeline.checkpoint.state import Slice
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.distributed import World


def save(
    checkpoints: Path,
    attempt: int,
    world: World,
    slices: list[Slice],
    facts: dict[str, Any],
    before_publishing: Callable[[], None],
) -> Path:
    """Writes and publishes one checkpoint; every rank calls it. `facts` are the manifest's fields (rank 0's count).

    `before_publishing` runs on rank 0 once all ranks have written; if it fails, nothing is published.

    Raises:
        WorkFailed: on every rank, if any could not do its part; what was there before stays untouched.
    """
    target = checkpoints / step_name(facts["step"])
    temporary = checkpoints / f"{target.name}.tmp-{attempt:03d}"

    def begin() -> dict[str, Any]:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        return {}

    def publish() -> dict[str, Any]:
        before_publishing()
        _publish(temporary, target, reports, facts)
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


def prune(checkpoints: Path, keep_last: int) -> None:
    """Removes all but the newest `keep_last` published checkpoints. Rank 0 only."""
    for path in published(checkpoints)[:-keep_last]:
        doomed = path.with_name(f"{path.name}.tmp-pruned")  # so that no half-removed folder looks published
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(checkpoints: Path) -> None:
    """Removes what attempts that died while saving or pruning left. Rank 0 only, before anything is saved."""
    for path in checkpoints.glob("step-*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _write_rank(temporary: Path, world: World, slices: list[Slice]) -> dict[str, Any]:
    path = temporary / f"rank-{world.rank:05d}.safetensors"
    pieces = write_slices(path, slices)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return {
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)},
        "shapes": {part.name: part.shape for part in slices},
        "tensors": pieces,
    }


def _publish(temporary: Path, target: Path, reports: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    shapes: dict[str, list[int]] = {}
    tensors: dict[str, list[Any]] = {}
    for report in reports:
        shapes |= report["shapes"]
        for key, pieces in report["tensors"].items():
            tensors.setdefault(key, []).extend(pieces)
    manifest = CheckpointManifest(**facts, files=[r["file"] for r in reports], shapes=shapes, tensors=tensors)
    manifest.write(temporary)
    temporary.rename(target)
    fsync_directory(target.parent)


def _guarded(work: Callable[[], dict[str, Any]], world: World) -> dict[str, Any]:
    """The work's report, or its failure as one: no rank may leave the others waiting in a collective."""
    try:
        return work()
    except Exception as error:
        return {"error": f"rank {world.rank} on {world.host}: {type(error).__name__}: {error}"}
