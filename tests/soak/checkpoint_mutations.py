"""A run's checkpoints, each time a fresh copy, are damaged in one of many ways; then a start chooses from what is left.

By the code of `vitstream train` (in a world of one, in this process; now and then by the command itself): what is
damaged is found before the first step and named, and the newest sound checkpoint before it is taken.
"""

import atexit
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.chaos.damage import DAMAGES, Damage, flip_bits
from pipeline.checkpoint.manifest import MANIFEST_NAME, step_name
from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.dataset.errors import UsageError
from pipeline.distributed import World
from pipeline.launch.environment import RankEnvironment
from tests.datasets import make_dataset
from tests.runs import steps_of, vitstream, write_run
from tests.runs import train as undisturbed
from tests.soak.matrix import Matrix

MUTATIONS_PER_TRIAL, TRIALS_PER_COMMAND = 50, 5
STEPS, RANKS, LAST = (3, 6, 9), 2, 12
FILES = (MANIFEST_NAME, *(f"rank-{rank:05d}.safetensors" for rank in range(RANKS)))
SMALL = {"name": "vit-ti/8", "image_size": 16, "depth": 2, "width": 32, "heads": 2, "mlp_dim": 64}
Hurt = dict[str, str]  # name of a checkpoint that must not be used -> what its line has to name


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of MUTATIONS_PER_TRIAL each; the last one of some of them is met by the command."""
    return [
        {
            "seed": seed * 1000 + i,
            "mutations": min(MUTATIONS_PER_TRIAL, count - i * MUTATIONS_PER_TRIAL),
            "command": i % TRIALS_PER_COMMAND == 0,
        }
        for i in range(-(-count // MUTATIONS_PER_TRIAL))
    ]


# -- what is damaged -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def source() -> tuple[Path, dict[int, dict]]:
    """A folder with a run of two ranks that has got to step 9, in three checkpoints; the steps of the whole run."""
    root = Path(mkdtemp(prefix="soak-mutations-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    make_dataset(root / "data", 96, size=(24, 24))
    undisturbed(write(root / "run.yaml", root), RANKS, "--set", f"steps={STEPS[-1]}")
    shutil.copytree(root / "run", root / "whole")
    whole = write(root / "whole.yaml", root)
    undisturbed(whole, RANKS)
    return root, steps_of(whole)


def write(path: Path, root: Path) -> Path:
    """A run of LAST steps, on the data in `root`."""
    few = {"model": SMALL, "batch_size": 16, "epochs": None, "steps": LAST, "schedule": {"name": "constant"}}
    return write_run(path, root / "data", checkpoint={"every_steps": STEPS[0], "keep_last": len(STEPS)}, **few)


def train(run: Path, *arguments: str, code: int = 0) -> str:
    """What the command says, once it has ended with this code."""
    done = vitstream("train", run, "--nproc", RANKS, *arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


# -- damages ---------------------------------------------------------------------------------------------------


def of_file(damage: Damage) -> Callable[[Path, Path, random.Random], Hurt]:
    """A damage to one file of the checkpoint."""

    def damaged(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
        path = checkpoint / rng.choice(FILES)
        damage(path, rng)
        return {checkpoint.name: str(path)}

    return damaged


def swap(a: Path, b: Path) -> None:
    aside = a.with_name("aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def swap_ranks(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
    swap(checkpoint / FILES[1], checkpoint / FILES[2])
    return {checkpoint.name: str(checkpoint / "rank-0000")}


def swap_steps(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
    """The same file of two checkpoints; now and then the manifests."""
    name = rng.choice(FILES)
    swap(checkpoint / name, older / name)
    return {path.name: str(path / name) for path in (checkpoint, older)}


def stale_file(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
    """What an older checkpoint has in its place; now and then the manifest."""
    name = rng.choice(FILES)
    shutil.copy2(older / name, checkpoint / name)
    return {checkpoint.name: str(checkpoint / name)}


def stale_folder(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
    """An older checkpoint, all of it, under the newer one's name."""
    shutil.rmtree(checkpoint)
    shutil.copytree(older, checkpoint)
    return {checkpoint.name: str(checkpoint / MANIFEST_NAME)}


def rename_folder(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
    """To another step's name, or to one that is no checkpoint's."""
    name = rng.choice((step_name(LAST + 1), step_name(LAST - 2), f"{checkpoint.name}.bak", "old"))
    checkpoint.rename(checkpoint.with_name(name))
    return {name: str(checkpoint.with_name(name))}


def swap_folders(checkpoint: Path, older: Path, rng: random.Random) -> Hurt:
    swap(checkpoint, older)
    return {path.name: str(path / MANIFEST_NAME) for path in (checkpoint, older)}


OF_FILES = (flip_bits, flip_bits, *DAMAGES.values())  # what disks do most
OF_FOLDERS = (swap_ranks, swap_steps, swap_steps, stale_file, stale_file, stale_folder, rename_folder, swap_folders)
OF_ALL = {f.__name__: of_file(f) for f in OF_FILES} | {f.__name__: f for f in OF_FOLDERS}
WEIGHTED = [f.__name__ for f in (*OF_FILES, *OF_FOLDERS)]


def damage_some(checkpoints: Path, rng: random.Random) -> tuple[Hurt, list[str]]:
    """Damages the newest checkpoint, and now and then others. Returns which must not be used, and what was done."""
    newest, *others = (checkpoints / step_name(step) for step in reversed(STEPS))
    kind = rng.choice(WEIGHTED)
    hurt, done = OF_ALL[kind](newest, rng.choice(others), rng), [kind]
    for other in others:
        if other.name not in hurt and rng.random() < 0.25:
            kind = rng.choice(OF_FILES).__name__
            hurt |= OF_ALL[kind](other, other, rng)
            done.append(kind)
    return hurt, done


# -- starts ----------------------------------------------------------------------------------------------------


@contextmanager
def world_of_one(folder: Path) -> Iterator[World]:
    """As a run with one rank joins."""
    before = dict(os.environ)
    world = World(RankEnvironment(0, 1, 0), str(folder / "rendezvous"))
    try:
        yield world
    finally:
        world.close()
        os.environ.clear()
        os.environ.update(before)


def check_choice(checkpoints: Path, hurt: Hurt, world: World) -> None:
    """Chooses as a start does, and compares with what must come of it."""
    expected = next((step for step in reversed(STEPS) if sound(checkpoints, step, hurt)), None)
    there = {path.name for path in checkpoints.iterdir()}
    said: list[str] = []
    try:
        chosen = choose_checkpoint(checkpoints, 7, world, said.append)
    except UsageError as error:
        assert expected is None and "none verifies" in str(error), (error, hurt)
    else:
        assert chosen is not None and expected is not None, ("a start from step 0", hurt)
        assert (chosen[0].name, chosen[1].step) == (step_name(expected), expected), (chosen[0], hurt)
    check_said(said, hurt, expected)
    after = {re.sub(r"\.damaged-007$", "", path.name) for path in checkpoints.iterdir()}
    assert after == there, f"{there} became {after}"


def sound(checkpoints: Path, step: int, hurt: Hurt) -> bool:
    return step_name(step) not in hurt and (checkpoints / step_name(step)).is_dir()


def check_said(said: list[str], hurt: Hurt, expected: int | None) -> None:
    """A line for each damaged checkpoint that was met, with the name of the file; no other lines."""
    met = {
        name: words for name, words in hurt.items() if expected is None or name > step_name(expected) or "-" not in name
    }
    assert len(said) == len(met), (said, met)
    for name, words in met.items():
        (line,) = (line for line in said if words in line)
        stranger = not re.fullmatch(r"step-\d{8}", name)
        assert ("is not the name of a checkpoint" if stranger else f"{name} is damaged and will not be used") in line


def check_command(copy: Path, root: Path, hurt: Hurt, whole: dict[int, dict]) -> None:
    """The same by `vitstream train`, to the run's end."""
    run = write(copy.with_suffix(".yaml"), root)
    expected = next((step for step in reversed(STEPS) if sound(copy / "checkpoints", step, hurt)), None)
    said = train(run, code=0 if expected else 2)
    if expected is None:
        assert "none verifies" in said, said
        return
    assert f"from {step_name(expected)}, which verifies" in said, (said, hurt)
    steps = steps_of(run)
    assert [steps[s]["loss"] for s in whole] == [line["loss"] for line in whole.values()]
    assert all(steps[s]["attempt"] == (s > expected) for s in whole), "other steps were done again"


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Damages copies, one after the other, and looks each time at what a start makes of it."""
    rng = random.Random(trial["seed"])
    root, whole = source()
    kinds: Counter[str] = Counter()
    with world_of_one(folder) as world:
        for _ in range(trial["mutations"] - trial["command"]):
            shutil.copytree(root / "run" / "checkpoints", folder / "checkpoints")
            hurt, done = damage_some(folder / "checkpoints", rng)
            check_choice(folder / "checkpoints", hurt, world)
            shutil.rmtree(folder / "checkpoints")
            kinds.update(done)
    if trial["command"]:
        shutil.copytree(root / "run", folder / "run")
        hurt, done = damage_some(folder / "run" / "checkpoints", rng)
        check_command(folder / "run", root, hurt, whole)
        kinds.update(done)
    return {"faults": trial["mutations"], "kinds": dict(kinds)}


MATRIX = Matrix(
    "checkpoint-mutations",
    "Three checkpoints of a real run of two ranks, of which one to three are damaged (bits flipped, blocks zeroed or"
    " overwritten, files cut, emptied, appended to, deleted or replaced; files, manifests and folders swapped between"
    " ranks and steps, stale or renamed): found before the first step, the file named, the newest sound checkpoint"
    " taken, nothing deleted; none sound: refused. Eight by `vitstream train`, to the undisturbed run's losses",
    2000,
    trials,
    run,
)
