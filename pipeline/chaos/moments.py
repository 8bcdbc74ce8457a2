"""The moments of a checkpoint's life, recognised from outside by what lies in RUN/checkpoints. Torch-free."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.checkpoint.manifest import MANIFEST_NAME, published

MOMENTS: Final = ("load", "save", "publish", "prune", "any")
_SAVING: Final = re.compile(r"step-\d+\.tmp-\d+")
_LOOK_S: Final = 0.0003


def arrive(
    moment: str, checkpoints: Path, alive: Callable[[], bool], typical_s: float, chance: random.Random
) -> str | None:
    """Waits for the moment, and a little into it. Returns what was seen, or None where the run ended first.

    load     from the start until `typical_s` later: joining, choosing, verifying, restoring
    save     ranks write into step-N.tmp-ATTEMPT
    publish  the manifest is there: about to be renamed, or just renamed
    prune    an older checkpoint has just gone, or is going
    any      a moment of the first 2 x `typical_s`
    """
    if moment in ("load", "any"):
        ends = time.monotonic() + chance.uniform(0, typical_s if moment == "load" else 2 * typical_s)
        while time.monotonic() < ends:
            if not alive():
                return None
            time.sleep(_LOOK_S)
        return _seen(checkpoints) or moment
    before = {path.name for path in published(checkpoints)}
    skip = chance.randint(0, 3)  # saves that are let pass
    while alive():
        names = _names(checkpoints)
        now = {name for name in names if name.startswith("step-") and "." not in name}
        reached = {
            "save": any(map(_SAVING.fullmatch, names)),
            "publish": bool(now - before) or _is_about_to_be_published(checkpoints, names),
            "prune": bool(before - now) or any(name.endswith(".tmp-pruned") for name in names),
        }[moment]
        if reached and skip == 0:
            time.sleep(chance.choice((0.0, chance.uniform(0, 0.002), chance.uniform(0, 0.02))))
            return _seen(checkpoints) or moment
        if now != before:
            before, skip = now, max(0, skip - 1)
        time.sleep(_LOOK_S)
    return None


def _names(checkpoints: Path) -> set[str]:
    try:
        return {path.name for path in checkpoints.iterdir()}
    except FileNotFoundError:
        return set()


def _is_about_to_be_published(checkpoints: Path, names: set[str]) -> bool:
    return any((checkpoints / name / MANIFEST_NAME).exists() for name in names if _SAVING.fullmatch(name))


def _seen(checkpoints: Path) -> str | None:
    """In the middle of what we are, as its leftovers would show."""
    names = _names(checkpoints)
    if any(name.endswith(".tmp-pruned") for name in names):
        return "prune"
    if _is_about_to_be_published(checkpoints, names):
        return "publish"
    return "save" if any(map(_SAVING.fullmatch, names)) else None
