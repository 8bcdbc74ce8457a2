"""Which checkpoints stay: the newest, those of every so many steps, those that a user keeps. Torch-free; rank 0 only.

Nothing here overwrites anything. What is removed is renamed first, so that no half-removed folder looks published.
"""

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.checkpoint.manifest import published, step_of

KEEP_NAME: Final = "keep"  # a file of this name in a checkpoint's folder protects it
_OURS: Final = re.compile(r"step-\d{8,}(\.(tmp|damaged)-.+)?")


@dataclass(frozen=True)
class Retention:
    """What of a run's checkpoints is not pruned."""

    last: int  # the newest so many
    every: int | None = None  # and those whose step is a multiple

    def doomed(self, paths: list[Path], in_use: Collection[Path | None] = ()) -> list[Path]:
        """Those of the published checkpoints, oldest first, that are to be removed."""
        old = [path for path in paths[: -self.last] if path not in in_use and not is_protected(path)]
        return [path for path in old if not self.every or step_of(path) % self.every]


def is_protected(checkpoint: Path) -> bool:
    return (checkpoint / KEEP_NAME).exists()


def prune(checkpoints: Path, retention: Retention, in_use: Collection[Path | None] = ()) -> None:
    """Removes what the retention does not keep. Raises OSError."""
    for path in retention.doomed(published(checkpoints), in_use):
        doomed = path.with_name(f"{path.name}.tmp-pruned")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)


def remove_leftovers(checkpoints: Path) -> None:
    """Removes what attempts that died while saving or pruning left, before anything is saved."""
    for path in checkpoints.glob("step-*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def set_aside(checkpoint: Path, attempt: int) -> Path:
    """Renames a damaged checkpoint to step-N.damaged-ATTEMPT, or, where that is taken, -2, -3, ... Raises OSError."""
    aside = first = checkpoint.with_name(f"{checkpoint.name}.damaged-{attempt:03d}")
    number = 1
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = first.with_name(f"{first.name}-{number}")
    checkpoint.rename(aside)
    return aside


def strangers(checkpoints: Path) -> list[Path]:
    """What lies in the folder under a name that is none of ours: a checkpoint that somebody renamed, perhaps."""
    if not checkpoints.is_dir():
        return []
    return sorted(path for path in checkpoints.iterdir() if not _OURS.fullmatch(path.name))
