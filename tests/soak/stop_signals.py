"""`vitstream train` is asked to stop, again and again, at any moment, by a signal or a file; it goes on each time."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
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
from tests.soak.stop_rank import Start
from tests.soak.stream_nest import Nest, wait_for

STOPS_PER_TRIAL = 4
PHASES = ("setup", "data", "step", "evaluate", "save")
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
WAYS = ("launcher", "group", "rank", "file")
PATIENCE_S = 240.0
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}  # all add up in the same order


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of STOPS_PER_TRIAL stops each, over 1 and 2 ranks, 0 and 1 workers, each phase as often as any other."""
    return [
        {
            "seed": seed * 1000 + i,
            "world": (1, 2)[i % 2],
            "workers": (0, 1)[i // 2 % 2],
            "launcher": i % 6 == 5,
            "phases": [PHASES[(i * STOPS_PER_TRIAL + n) % len(PHASES)] for n in range(STOPS_PER_TRIAL)],
        }
        for i in range(-(-count // STOPS_PER_TRIAL))
    ]


# -- runs ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def nest() -> Nest:
    """It ends with this process."""
    return Nest(ENVIRONMENT, module="tests.soak.stop_rank")


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


class Launched:
    """A start by our own launcher."""

    def __init__(self, run: Path, world: int, number: int) -> None:
        environment = os.environ | ENVIRONMENT
        self._process = start("train", run, "--nproc", world, start_new_session=True, env=environment)
        self.pid = self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> tuple[set[int], str]:
        """Exit codes, and what it said."""
        out, err = self._process.communicate(timeout=PATIENCE_S)
        return {self._process.returncode}, out + err


class Forked:
    """A start by another launcher, of ranks that need not import anything: in less time."""

    def __init__(self, run: Path, world: int, number: int) -> None:
        self._folder = run.parent / f"start-{number}"
        begun = Start(str(self._folder), str(run), world)
        self.pid = nest().begin(begun)[0]

    def has_ended(self) -> bool:
        return (self._folder / "codes.json").exists()

    def end(self) -> tuple[set[int], str]:
        """Exit codes, and what they said."""
        wait_for(self.has_ended, "the ranks do not end", PATIENCE_S)
        logs = "".join(log.read_text() for log in sorted(self._folder.glob("*.log")))
        return set(json.loads((self._folder / "codes.json").read_text())), logs


@dataclass
class Attempt:
    """One start of the run, and how it is stopped."""

    run: Path
    number: int
    process: Launched | Forked
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
            time.sleep(self.chance.uniform(0, 3 if isinstance(self.process, Launched) else 1))
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
        wait_for(lambda: bool(true()) or self.process.has_ended(), "a moment does not come", PATIENCE_S)

    def ask(self) -> str:
        """By a signal or by the file. Returns what the verdict's cause has to be."""
        way = self.chance.choice(WAYS)
        if way == "file":
            (self.run.with_suffix("") / "STOP").touch()
        else:
            self.send(way)
            if self.chance.random() < 0.5:
                time.sleep(self.chance.uniform(0, 0.3))
                self.send(self.chance.choice(WAYS[:2]))
        return "stop file" if way == "file" else "signal"

    def send(self, to: str) -> None:
        """A signal, to some that may have ended."""
        signum = getattr(signal, self.chance.choice(SIGNALS))
        ranks = [p.pid for p in children(self.process.pid) if parent_of(p) == self.process.pid]
        with suppress(ProcessLookupError):
            if to == "rank" and ranks:
                os.kill(self.chance.choice(ranks), signum)
            elif to == "group" or isinstance(self.process, Forked):
                os.killpg(self.process.pid, signum)
            else:
                os.kill(self.process.pid, signum)

    def end(self) -> tuple[set[int], str]:
        """Waits until nothing of it is left. Returns exit codes, and what was said."""
        family = children(self.process.pid)
        try:
            codes, said = self.process.end()
        except (subprocess.TimeoutExpired, AssertionError):
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"attempt {self.number} does not end") from None
        _, alive = psutil.wait_procs(family, timeout=5.0)
        assert not alive, f"outlived its run: {alive}"
        return codes, said


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


def parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Attempts that are stopped, and a last one that is not: what they did is what one does that nobody stopped."""
    chance = random.Random(trial["seed"])
    storage, seen, lost = Folder(datasets()), Counter[str](), 0
    begin = Launched if trial["launcher"] else Forked
    with storage.running() as url:
        yaml = write(folder / "run.yaml", url, trial["workers"])
        for number, phase in enumerate(trial["phases"]):
            before = newest(yaml)
            attempt = Attempt(yaml, number, begin(yaml, trial["world"], number), storage, chance)
            attempt.reach(phase)
            cause = attempt.ask()
            codes, said = attempt.end()
            storage.flow()
            lost += check_stopped(attempt, cause, before, codes, said)
            seen[verdict_of(yaml, number)["phase"]] += 1
        number = len(trial["phases"])
        codes, said = Attempt(yaml, number, begin(yaml, trial["world"], number), storage, chance).end()
        assert codes == {0}, (codes, said)
    assert told(yaml) == undisturbed(trial["world"]), "it ended otherwise"
    return {"faults": len(trial["phases"]), "phases": seen, "steps_lost": lost}


def check_stopped(attempt: Attempt, cause: str, before: int, codes: set[int], said: str) -> int:
    """All is as it has to be. Returns how many steps were lost."""
    verdict, saved = verdict_of(attempt.run, attempt.number), newest(attempt.run)
    starting = verdict["phase"] == "setup"  # then its launcher kills a rank that waits for one that has gone
    assert 3 in codes <= ({3, -signal.SIGKILL} if starting else {3}), (codes, verdict, said)
    assert verdict["cause"] == cause and verdict["resumable"] and verdict["message"] in said, (verdict, said)
    assert not (attempt.run.with_suffix("") / "STOP").exists()
    assert saved == (before if starting else verdict["step"]), (verdict, before, saved)
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
