"""SIGKILL of random ranks at random moments of a checkpoint's life: while it is written, published, pruned, loaded."""

import random
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.chaos.kills import compare, run_killed
from tests.datasets import make_dataset
from tests.runs import write_run
from tests.soak.matrix import Matrix
from tests.soak.train_nest import nest

KILLS_PER_TRIAL = 10
WORLDS, STAGES = (1, 2, 3), ("zero0", "zero1", "zero2", "zero3")
SAMPLES = 352


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of KILLS_PER_TRIAL kills each."""
    return [
        {
            "seed": seed * 1000 + n,
            "world": WORLDS[n % len(WORLDS)],
            "zero": STAGES[n // len(WORLDS) % len(STAGES)],
            "kills": min(KILLS_PER_TRIAL, count - n * KILLS_PER_TRIAL),
        }
        for n in range(-(-count // KILLS_PER_TRIAL))
    ]


@lru_cache(maxsize=1)
def home() -> Path:
    """The data, and the runs that nobody disturbs."""
    folder = Path(mkdtemp(prefix="soak-checkpoints-"))
    make_dataset(folder / "data", SAMPLES)
    return folder


def a_run(path: Path, zero: str) -> Path:
    """A run that saves at every other step, and is long enough for all kills."""
    return write_run(
        path,
        home() / "data",
        zero=zero,
        epochs=None,
        steps=120,
        schedule={"name": "constant"},
        checkpoint={"every_steps": 2, "keep_last": 2},
    )


@lru_cache(maxsize=16)
def undisturbed(world: int, zero: str) -> Path:
    """What a run must end as."""
    run = a_run(home() / f"whole-{world}-{zero}.yaml", zero)
    log = run.with_suffix(".log")
    assert nest()(run, world, log).wait() == 0, log.read_text()
    return run


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Kills, then the same command to the end: every step, and every bit of the weights, as if nothing had happened."""
    whole = undisturbed(trial["world"], trial["zero"])
    mine = a_run(folder / "run.yaml", trial["zero"])
    done = run_killed(nest(), mine, trial["world"], trial["kills"], folder / "log", random.Random(trial["seed"]))
    compare(mine, whole)
    return {"faults": done.kills, "at": dict(done.at), "victims": dict(done.victims)}


MATRIX = Matrix(
    name="checkpoint-kills",
    promise="SIGKILL of a rank while a checkpoint is written, published, pruned or loaded, then the same command: it "
    "goes on by itself; every step's digest, loss and gradient norm, and every bit of the last weights and moments, "
    "are those of an undisturbed run",
    default_faults=200,
    trials=trials,
    run=run,
)
