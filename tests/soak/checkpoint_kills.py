"""SIGKILL of random ranks at random moments of a checkpoint's life: while it is written, published, pruned, loaded."""

import random
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.chaos.family import kill, runs, wait_until_gone
from pipeline.chaos.kills import compare, run_killed
from tests.datasets import make_dataset
from tests.runs import write_run
from tests.soak.checkpoint_matrix import nest
from tests.soak.checkpoint_rank import Start
from tests.soak.matrix import Matrix
from tests.soak.stream_nest import endings, session

KILLS_PER_TRIAL = 10
GRACE_S = 2.0  # for the ranks that are left to end by themselves, as our launcher waits
WORLDS, STAGES = (1, 2, 3), ("zero0", "zero1", "zero2", "zero3")
SAMPLES = 352
LONGEST_S = 300.0  # of a run: one that takes longer hangs


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


@dataclass
class Ranks:
    """The ranks of an attempt, started without a launcher (checkpoint_rank.py); a Family of pipeline/chaos."""

    started: Start
    ranks: list[int]
    head: None = None

    @classmethod
    def start(cls, run_yaml: Path, processes: int, log: Path) -> "Ranks":
        """What they say is in a folder beside `log`, one for each start."""
        number = sum(1 for _ in log.parent.glob(f"{log.name}.*"))
        started = Start(str(log.with_name(f"{log.name}.{number}")), str(run_yaml), [], processes)
        return cls(started, nest().begin(started))

    def alive(self) -> bool:
        """All of them: where one has ended, the others do not get far."""
        return all(map(runs, self.ranks))

    def wait(self) -> int:
        """As the launcher does: once one has ended badly, the others get a moment; then they are killed."""
        longest = ends = time.monotonic() + LONGEST_S
        while any(map(runs, self.ranks)) and time.monotonic() < ends:
            if ends == longest and self._failed():
                ends = time.monotonic() + GRACE_S
            time.sleep(0.005)
        for pid in filter(runs, self.ranks):
            kill(pid)
        if time.monotonic() > longest:
            raise TimeoutError(f"the run has not ended after {LONGEST_S:.0f} s")
        wait_until_gone([pid for rank in self.ranks for pid in (rank, *session(rank))])
        return int(self._failed())

    def _failed(self) -> bool:
        ended = [how for how, pid in zip(endings(self.started), self.ranks, strict=True) if not runs(pid)]
        return any(how != "done" for how in ended)


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
    assert Ranks.start(run, world, log).wait() == 0, log
    return run


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Kills, then the same command to the end: every step, and every bit of the weights, as if nothing had happened."""
    whole = undisturbed(trial["world"], trial["zero"])
    mine = a_run(folder / "run.yaml", trial["zero"])
    done = run_killed(Ranks.start, mine, trial["world"], trial["kills"], folder / "log", random.Random(trial["seed"]))
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
