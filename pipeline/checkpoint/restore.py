"""Which checkpoint to go on from: the newest of which every byte verifies. Rank 0 decides, and tells the others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.checkpoint.commit import remove_leftovers
from pipeline.checkpoint.files import sha256
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    Damaged,
    published,
    read_checkpoint_manifest,
    step_name,
)
from pipeline.dataset.errors import UsageError
from pipeline.distributed import World


def choose_checkpoint(
    checkpoints: Path, attempt: int, world: World, say: Callable[[str], None]
) -> tuple[Path, CheckpointManifest] | None:
    """The checkpoint that all ranks go on from, or None where there has never been one. Every rank calls it.

    Raises:
        UsageError: there are, or were, checkpoints, but none verifies: nothing starts at step 0 silently.
    """
    choice: dict[str, Any] = {}
    if world.is_main:
        remove_leftovers(checkpoints)
        newest = newest_verified(checkpoints, attempt, say)
        if newest:
            choice = {"name": newest[0].name}
        elif any(checkpoints.glob("step-*.damaged-*")):
            why = "there are checkpoints but none verifies; --from-scratch begins again at step 0"
            choice = {"refused": f"{checkpoints}: {why}"}
    choice = world.broadcast(choice)
    if "refused" in choice:
        raise UsageError(choice["refused"])
    if "name" not in choice:
        return None
    path = checkpoints / choice["name"]
    return path, read_checkpoint_manifest(path)


def newest_verified(
    checkpoints: Path, attempt: int, log: Callable[[str], None]
) -> tuple[Path, CheckpointManifest] | None:
    """The newest checkpoint of which every byte verifies, or None. Damaged ones are set aside, and named in the log.

    Rank 0 only.
    """
    for path in reversed(published(checkpoints)):
        try:
            return path, verify(path)
        except Damaged as damage:
            aside = path.with_name(f"{path.name}.damaged-{attempt:03d}")
            path.rename(aside)
            log(f"{path.name} is damaged and will not be used: {damage}; set aside as {aside.name}")
    return None


def verify(directory: Path) -> CheckpointManifest:
    """Reads every byte of a checkpoint. Raises Damaged at the first file that is not what was written."""
    manifest = read_checkpoint_manifest(directory)
    if directory.name != step_name(manifest.step):
        raise Damaged(f"{directory / MANIFEST_NAME}: is of step {manifest.step}")

    def check(file: dict[str, Any]) -> None:
        path = directory / file["name"]
        if not path.is_file():
            raise Damaged(f"{path}: missing")
        if path.stat().st_size != file["bytes"]:
            raise Damaged(f"{path}: {path.stat().st_size:,} bytes, not {file['bytes']:,}")
        if sha256(path) != file["sha256"]:
            raise Damaged(f"{path}: its bytes do not have the SHA-256 that the manifest states")

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(check, manifest.files))
    return manifest
