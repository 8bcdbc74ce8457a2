"""Which checkpoint to go on from: the newest of which every byte verifies. Ranks share the reading, rank 0 decides."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, Damaged, published, step_name, step_of
from pipeline.checkpoint.retention import remove_leftovers, set_aside, strangers
from pipeline.checkpoint.verify import damages, read_named
from pipeline.checkpoint.verify import verify as verify
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.distributed import World
from pipeline.run.published_file import PublishedFile

T = TypeVar("T")
_Met = tuple[str, str] | None  # what kind of thing a rank has met, and the line that says it
_RAISED: dict[str, type[UsageError | WorkFailed]] = {"usage": UsageError, "failure": WorkFailed}


def choose_checkpoint(
    checkpoints: Path, attempt: int, world: World, say: Callable[[str], None]
) -> tuple[Path, CheckpointManifest] | None:
    """The checkpoint that all ranks go on from, or None where there has never been one. Every rank calls it.

    Every byte of it has been read, and is what was written. Damaged ones are set aside, and named.

    Raises, on all ranks alike:
        UsageError: there are, or were, checkpoints, but none verifies or none is left: nothing starts at step 0
            silently. Or one is of another format.
        WorkFailed: one cannot be read now, by any rank. It is left as it is.
    """
    survey, met = _tried(partial(_survey, checkpoints, say), world) if world.is_main else (None, None)
    _agree(met, world)
    names, were_there = world.broadcast(survey)
    for name in names:
        manifest, met = _tried(partial(_share_of, checkpoints / name, world), world)
        damage = _damage(checkpoints / name, manifest, met, world)
        if damage is None and manifest is not None:
            return checkpoints / name, manifest
        if world.is_main:
            say(f"{name} is damaged and will not be used: {damage}; {_put_aside(checkpoints / name, attempt)}")
    if names or were_there:
        why = "there are checkpoints but none verifies; --from-scratch begins again at step 0"
        raise UsageError(f"{checkpoints}: {why}")
    return None


def _survey(checkpoints: Path, say: Callable[[str], None]) -> tuple[list[str], bool]:
    """The checkpoints' names, newest first; whether there are others, which cannot be used.

    Raises:
        UsageError: the run has published some, and all have gone.
    """
    remove_leftovers(checkpoints)
    renamed = [path for path in strangers(checkpoints) if (path / MANIFEST_NAME).exists()]
    for path in renamed:
        say(f"{path} is not the name of a checkpoint, and is not used")
    names = [path.name for path in reversed(published(checkpoints))]
    were_there = bool(renamed) or any(checkpoints.glob("step-*.damaged-*"))
    newest = PublishedFile.of(checkpoints.parent).read()
    if newest is None or renamed or any(checkpoints.glob(f"{step_name(newest)}*")):
        return names, were_there
    if not names and not were_there:
        what = f"{step_name(newest)} was published here, and no checkpoint is left"
        fix = "bring them back (is their disk mounted?); --from-scratch begins again at step 0"
        raise UsageError(f"{checkpoints}: {what}: {fix}")
    if names and step_of(checkpoints / names[0]) < newest:
        say(f"{checkpoints / step_name(newest)}, which was published last, is gone: somebody has removed it")
    return names, were_there


def _share_of(checkpoint: Path, world: World) -> CheckpointManifest:
    """The manifest, once it and this rank's share of the files verify. Raises Damaged, UsageError, WorkFailed.

    At the same world size a rank's share is what it wrote and is about to restore: it is in memory by then.
    """
    manifest = read_named(checkpoint)
    for damage in damages(checkpoint, manifest, range(world.rank, len(manifest.files), world.size)):
        raise damage
    return manifest


def _tried(look: Callable[[], T], world: World) -> tuple[T | None, _Met]:
    """What a look gives, and what it has met instead: no rank may leave the others waiting in a collective."""
    try:
        return look(), None
    except Damaged as damage:
        kind, line = "absent" if damage.is_absent else "damaged", str(damage)
    except UsageError as error:
        kind, line = "usage", str(error)
    except WorkFailed as failure:
        kind, line = "failure", str(failure)
    except OSError as error:
        kind, line = "failure", f"{error.filename}: cannot be read now ({error.strerror}); nothing is changed there"
    return None, (kind, line if world.is_main else f"{line} (seen by rank {world.rank} on {world.host})")


def _agree(met: _Met, world: World) -> list[_Met]:
    """What every rank has met, in order of rank. Raises UsageError, WorkFailed where any has met one."""
    everyones = world.all_gather(met)
    for kind, error in _RAISED.items():
        for line in (each[1] for each in everyones if each and each[0] == kind):
            raise error(line)
    return everyones


def _damage(checkpoint: Path, manifest: CheckpointManifest | None, met: _Met, world: World) -> str | None:
    """What is wrong with a checkpoint, by all that the ranks have read of it.

    What other ranks miss and rank 0 sees is no damage: on a network file system they may be late to see it.
    Raises UsageError, WorkFailed.
    """
    everyones = _agree(met, world)
    found = dict(filter(None, reversed(everyones)))  # kind -> the first rank's line
    if "damaged" in found or "absent" not in found or everyones[0] is not None:
        return found.get("damaged", found.get("absent"))
    look = partial(_is_there, checkpoint, manifest)
    there, met = _tried(look, world) if world.is_main else (None, None)
    _agree(met, world)
    if world.broadcast(there):
        raise WorkFailed(f"{found['absent']}; rank 0 sees it: the file system there is late, or another one")
    return found["absent"]


def _is_there(checkpoint: Path, manifest: CheckpointManifest) -> bool:
    return all((checkpoint / file["name"]).is_file() for file in manifest.files)


def _put_aside(checkpoint: Path, attempt: int) -> str:
    try:
        return f"set aside as {set_aside(checkpoint, attempt).name}"
    except OSError as error:
        return f"it cannot be set aside ({error.strerror})"
