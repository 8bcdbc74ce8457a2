"""Which checkpoint to go on from: the newest of which every byte verifies. Ranks share the reading, rank 0 decides."""

from collections.abc import Callable
from pathlib import Path

from pipeline.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, Damaged, published
from pipeline.checkpoint.retention import remove_leftovers, set_aside, strangers
from pipeline.checkpoint.verify import damages, read_named
from pipeline.checkpoint.verify import verify as verify
from pipeline.dataset.errors import UsageError
from pipeline.distributed import World


def choose_checkpoint(
    checkpoints: Path, attempt: int, world: World, say: Callable[[str], None]
) -> tuple[Path, CheckpointManifest] | None:
    """The checkpoint that all ranks go on from, or None where there has never been one. Every rank calls it.

    Every byte of it has been read, and is what was written. Damaged ones are set aside, and named.

    Raises:
        UsageError: there are, or were, checkpoints, but none verifies: nothing starts at step 0 silently.
    """
    names, were_there = world.broadcast(_survey(checkpoints, say) if world.is_main else None)
    for name in names:
        manifest, damage = _share_of(checkpoints / name, world)
        damage = next(filter(None, world.all_gather(damage)), None)
        if damage is None and manifest is not None:
            return checkpoints / name, manifest
        if world.is_main:
            say(f"{name} is damaged and will not be used: {damage}; {_put_aside(checkpoints / name, attempt)}")
    if names or were_there:
        why = "there are checkpoints but none verifies; --from-scratch begins again at step 0"
        raise UsageError(f"{checkpoints}: {why}")
    return None


def _survey(checkpoints: Path, say: Callable[[str], None]) -> tuple[list[str], bool]:
    """The checkpoints' names, newest first; whether there are others, which cannot be used."""
    remove_leftovers(checkpoints)
    renamed = [path for path in strangers(checkpoints) if (path / MANIFEST_NAME).exists()]
    for path in renamed:
        say(f"{path} is not the name of a checkpoint, and is not used")
    names = [path.name for path in reversed(published(checkpoints))]
    return names, bool(renamed) or any(checkpoints.glob("step-*.damaged-*"))


def _share_of(checkpoint: Path, world: World) -> tuple[CheckpointManifest | None, str | None]:
    """The manifest, and what is wrong with it or with this rank's share of the files.

    At the same world size a rank's share is what it wrote and is about to restore: it is in memory by then.
    """
    try:
        manifest = read_named(checkpoint)
    except Damaged as damage:
        return None, str(damage)
    damage = next(damages(checkpoint, manifest, range(world.rank, len(manifest.files), world.size)), None)
    if damage is None:
        return manifest, None
    return manifest, f"{damage}{'' if world.is_main else f' (seen by rank {world.rank} on {world.host})'}"


def _put_aside(checkpoint: Path, attempt: int) -> str:
    try:
        return f"set aside as {set_aside(checkpoint, attempt).name}"
    except OSError as error:
        return f"it cannot be set aside ({error.strerror})"
