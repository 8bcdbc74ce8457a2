"""`vitstream train` is asked to stop, again and again, at any moment, by a signal or a file; it goes on each time."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from pipeline.run.metrics import read_lines
from tests.datasets import make_dataset
from tests.runs import start, steps_of, train, verdict_of, write_run
from tests.servers import Folder
from tests.soak.matrix import Matrix

STOPS_PER_TRIAL = 4
PHASES = ("setup", "data", "step", "evaluate", "save")
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
WAYS = ("launcher", "group", "rank", "file")
PATIENCE_S = 240.0


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of STOPS_PER_TRIAL stops each, over 1 and 2 ranks, 0 and 1 workers, each phase as often as any other."""
    return [
        {
            "seed": seed * 1000 + i,
            "world": (1, 2)[i % 2],
            "workers": (0, 1)[i // 2 % 2],
            "phases": [PHASES[(i * STOPS_PER_TRIAL + n) % len(PHASES)] for n in range(STOPS_PER_TRIAL)],
        }
        for i in range(-(-count // STOPS_PER_TRIAL))
    ]


# -- runs ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def datasets() -> Path:
    """A folder with train/ and val/."""
    root = Path(mkdtemp(prefix="soak-stops-"))
    make_dataset(root / "train", 352, seed=0)
    make_dataset(root / "val", 101, seed=1)
    return root


def write(path: Path, place: str, workers: int) -> Path:
    """88 steps, with 11 evaluations and 18 checkpoints."""
    return write_run(
        path,
        f"{place}/train",
        f"{place}/val",
        epochs=8,
        checkpoint={"every_steps": 5},
        evaluate={"every_steps": 8, "crop": 1.0, "batch_size": 8},
        loader={"workers": workers, "prefetch": 1, "read_ahead": 1},
    )


@lru_cache(maxsize=2)
def undisturbed(world: int) -> tuple[dict[int, tuple], dict[int, tuple]]:
    """What nobody stopped: steps and evaluations, as `told` says."""
    run = write(Path(mkdtemp(prefix="soak-whole-")) / "run.yaml", str(datasets()), workers=1)
    train(run, world)
    return told(run)


def told(run: Path) -> tuple[dict[int, tuple], dict[int, tuple]]:
    """(step -> what it was, step -> what its evaluation came to); of what was done twice, the last."""
    steps = {
        s: tuple(line[f] for f in ("loss", "grad_norm", "batch_digest", "consumed", "lr"))
        for s, line in steps_of(run).items()
    }
    lines = [line for line in read_lines(run.with_suffix("") / "metrics.jsonl") if "eval" in line]
    return steps, {line["step"]: (line["accuracy"], line["loss"], line["samples"]) for line in lines}


# -- stops -----------------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """One start of the command, and how it was stopped."""

    run: Path
    number: int
    launcher: subprocess.Popen
    storage: Folder
    chance: random.Random

    @property
    def folder(self) -> Path:
        return self.run.with_suffix("") / "attempts" / f"{self.number:03d}"

    def reach(self, phase: str) -> None:
        """Waits for a moment of that phase."""
        done = max(steps_of(self.run), default=0)
        self.until(self.folder.exists)
        if phase == "setup":
            time.sleep(self.chance.uniform(0, 4))
            return
        self.until(lambda: max(steps_of(self.run), default=0) > done)
        if phase == "data":
            self.storage.stall()
            before = self.storage.waiting
            self.until(lambda: self.storage.waiting > before)
        elif phase == "evaluate":
            self.until(lambda: "evaluation on" in (self.folder / "rank-0.log").read_text())
        elif phase == "save":
            checkpoints = self.run.with_suffix("") / "checkpoints"
            self.until(lambda: list(checkpoints.glob("*.tmp-*")))
        time.sleep(self.chance.uniform(0, 0.3 if phase in ("step", "data") else 0.05))

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true() and self.launcher.poll() is None:
            assert time.monotonic() < deadline, "a moment does not come"
            time.sleep(0.002)

    def ask(self) -> str:
        """By a signal or by the file. Returns what the verdict's cause has to be."""
        way = self.chance.choice(WAYS)
        if way == "file":
            (self.run.with_suffix("") / "STOP").touch()
        else:
            self.send(way)
            if self.chance.random() < 0.5:
                time.sleep(self.chance.uniform(0, 0.3))
                self.send(self.chance.choice(("launcher", "group")))
        return "stop file" if way == "file" else "signal"

    def send(self, to: str) -> None:
        """A signal, to one that may have ended."""
        signum = getattr(signal, self.chance.choice(SIGNALS))
        ranks = [p.pid for p in children(self.launcher.pid) if p.ppid() == self.launcher.pid] if to == "rank" else []
        try:
            if to == "group":
                os.killpg(self.launcher.pid, signum)
            else:
                os.kill(self.chance.choice(ranks) if ranks else self.launcher.pid, signum)
        except ProcessLookupError:
            pass

    def end(self) -> str:
        """Waits until nothing of it is left. Returns what it said."""
        family = children(self.launcher.pid)
        try:
            out, err = self.launcher.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.launcher.pid, signal.SIGKILL)
            raise AssertionError(f"attempt {self.number} does not stop: {self.launcher.communicate()}") from None
        _, alive = psutil.wait_procs(family, timeout=5.0)
        assert not alive, f"outlived its run: {alive}"
        return out + err


def children(pid: int) -> list[psutil.Process]:
    """All below it."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def newest(run: Path) -> int:
    """The step of the newest checkpoint, which verifies; 0 where there is none."""
    paths = published(run.with_suffix("") / "checkpoints")
    return verify(paths[-1]).step if paths else 0


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Attempts that are stopped, and a last one that is not: what they did is what one does that nobody stopped."""
    chance = random.Random(trial["seed"])
    storage, seen, lost = Folder(datasets()), Counter[str](), 0
    with storage.running() as url:
        yaml = write(folder / "run.yaml", url, trial["workers"])
        for number, phase in enumerate(trial["phases"]):
            launcher = start("train", yaml, "--nproc", trial["world"], start_new_session=True)
            attempt = Attempt(yaml, number, launcher, storage, chance)
            before = newest(yaml)
            attempt.reach(phase)
            cause = attempt.ask()
            said = attempt.end()
            storage.flow()
            lost += check_stopped(attempt, cause, before, said)
            seen[verdict_of(yaml, number)["phase"]] += 1
        train(yaml, trial["world"])
    assert told(yaml) == undisturbed(trial["world"]), "it ended otherwise"
    return {"faults": len(trial["phases"]), "phases": seen, "steps_lost": lost}


def check_stopped(attempt: Attempt, cause: str, before: int, said: str) -> int:
    """All is as it has to be. Returns how many steps were lost."""
    assert attempt.launcher.returncode == 3, (attempt.launcher.returncode, said)
    verdict, saved = verdict_of(attempt.run, attempt.number), newest(attempt.run)
    assert verdict["cause"] == cause and verdict["resumable"] and verdict["message"] in said, (verdict, said)
    assert not (attempt.run.with_suffix("") / "STOP").exists()
    assert saved == (before if verdict["phase"] == "setup" else verdict["step"]), (verdict, before, saved)
    lost = max(steps_of(attempt.run), default=0) - saved
    assert 0 <= lost <= 1, f"{lost} steps are lost: {verdict}"
    return lost


MATRIX = Matrix(
    "stop-signals",
    "`vitstream train` on 1 and 2 ranks with 0 and 1 workers is asked to stop four times, by SIGTERM, SIGINT, SIGHUP or"
    " SIGUSR1 (to the launcher, one rank or the whole group; half of the time twice) or by RUN/STOP, at random moments"
    " while it starts, waits for data, does a step, evaluates or saves: each time exit code 3, a verdict with the right"
    " cause, a checkpoint that verifies, at most one step lost, no process left; and in the end the same losses,"
    " gradients, batches and evaluations, to the last bit, as of a run that nobody stopped",
    100,
    trials,
    run,
)
