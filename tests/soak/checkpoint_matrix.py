"""A checkpoint of every number of processes and every ZeRO stage goes on with every other, as if nothing had been."""

import atexit
import random
import shutil
from functools import lru_cache
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.checkpoint.manifest import step_name
from tests.datasets import make_dataset
from tests.runs import steps_of, write_run
from tests.soak.checkpoint_rank import Start
from tests.soak.matrix import Matrix
from tests.soak.stream_nest import Nest, alive, endings, wait_for

WORLDS, STAGES = (1, 2, 3, 4), (0, 1, 2, 3)
PLACES = [f"{world} processes, stage {stage}" for world, stage in product(WORLDS, STAGES)]
SAVED, STEPS = 5, 15
TOLERANCE = 1e-5  # of a loss, relative
PATIENCE_S = 300.0  # for ten steps, on a machine that has other things to do
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """One for every place that loads, with all places that write."""
    return [{"seed": seed * 1000 + i, "into": into, "of": PLACES} for i, into in enumerate(PLACES)][: -(-count // 16)]


def sample(seed: int) -> list[dict[str, Any]]:
    """12 pairs: all of four places that have each number of processes, and each stage, once."""
    stages = random.Random(seed).sample(STAGES, 4)
    places = [f"{world} processes, stage {stage}" for world, stage in zip(WORLDS, stages, strict=True)]
    return [{"seed": seed, "into": into, "of": [place for place in places if place != into]} for into in places]


@lru_cache(maxsize=1)
def nest() -> Nest:
    """It ends with this process."""
    return Nest(ENVIRONMENT, module="tests.soak.checkpoint_rank")


@lru_cache(maxsize=1)
def shared() -> Path:
    """A folder with a dataset, of which a run goes through three epochs."""
    folder = Path(mkdtemp(prefix="soak-checkpoints-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_dataset(folder / "data", 150, size=(24, 24))
    return folder


def start(folder: Path, place: str) -> Path:
    """Trains at a place, from where `folder/run` is, to the end. Returns the run's YAML, beside it."""
    world, stage = int(place[0]), int(place[-1])
    run = write_run(
        folder / "run.yaml",
        shared() / "data",
        model={"name": "vit-ti/8", "image_size": 16, "depth": 2, "width": 32, "heads": 2, "mlp_dim": 64},
        zero=f"zero{stage}",
        batch_size=30,
        micro_batch_size=6,
        epochs=None,
        steps=STEPS,
        checkpoint={"every_steps": SAVED, "keep_last": 99},
        loader={"workers": 0},
    )
    attempt = Start(str(folder / "ranks"), str(run), [], world)
    pids = nest().begin(attempt)
    wait_for(lambda: not alive(pids), f"{place}: the ranks hang", PATIENCE_S)
    said = (folder / "ranks/0.log").read_text()
    assert endings(attempt) == ["done"] * world, f"{place}: {endings(attempt)}\n{said}"
    return run


@lru_cache(maxsize=len(PLACES))
def source(place: str) -> Path:
    """The YAML of a run that nothing happened to."""
    folder = shared() / place
    folder.mkdir()
    return start(folder, place)


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """At one place, runs that go on from the checkpoints of others."""
    worst = 0.0
    for number, place in enumerate(trial["of"]):
        whole, here = source(place), folder / str(number)
        kept = Path("run/checkpoints") / step_name(SAVED)
        shutil.copytree(whole.parent / kept, here / kept)
        steps, expected = steps_of(start(here, trial["into"])), steps_of(whole)
        assert list(steps) == list(range(SAVED + 1, STEPS + 1)), f"{place} into {trial['into']}: did {list(steps)}"
        for step, line in steps.items():
            assert line["world_size"] == int(trial["into"][0])
            assert line["batch_digest"] == expected[step]["batch_digest"], f"{place} into {trial['into']}: step {step}"
            worst = max(worst, abs(line["loss"] / expected[step]["loss"] - 1))
        assert worst <= TOLERANCE, f"{place} into {trial['into']}: a loss differs by {worst:.1e}"
        shutil.rmtree(here)
    return {"faults": len(trial["of"]), "worst_loss_difference": worst}


MATRIX = Matrix(
    "checkpoint-pairs",
    "A checkpoint of a run on {1, 2, 3, 4} processes at ZeRO stage {0, 1, 2, 3} goes on with every other number of"
    f" processes and stage, 256 pairs: it loads, the batches of the next {STEPS - SAVED} steps are those of the"
    " uninterrupted run, and so are the losses, to 1e-5 (fp32)",
    256,
    trials,
    run,
)
