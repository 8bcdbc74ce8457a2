"""The verdict corpus: runs that are hurt in every way there is, and what their verdicts have to say of it."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from tests.datasets import make_dataset
from tests.runs import CHECKOUT, start, steps_of, verdict_of, vitstream, write_run
from tests.servers import Folder
from tests.slurm import runs
from tests.soak.matrix import Matrix
from tests.soak.verdicts_on_a_cluster import ON_A_CLUSTER, run_on_a_cluster

WORLD, PATIENCE_S = 2, 180.0
INJECT = str(Path(__file__).parent / "inject")
LIMITS = {"silent_s": 4.0, "least_s": 4.0, "first_s": 60.0, "setup_s": 120.0, "factor": 5.0}


@dataclass(frozen=True)
class Fault:
    """One kind of fault, and the verdict that it has to get."""

    what: str  # of tests/soak/inject, or a function below
    phase: str  # in which it happens
    cause: str  # of the verdict
    step: int = 8  # about which it happens
    names_the_rank: bool = True
    config: dict[str, Any] = field(default_factory=dict)  # of the run

    @property
    def name(self) -> str:
        return f"{self.what}, {self.phase}"


def _each(what: str, cause: str, *phases: str) -> list[Fault]:
    return [Fault(what, phase, cause, step={"evaluate": 12, "save": 10}.get(phase, 8)) for phase in phases]


DIVERGES = {"optimizer": {"lr": 1e30}, "regularization": {"clip_norm": None}}
FROM_AFAR = {"data": {"retry_s": 1.0}}
INJECTED = [
    *_each("exit 1", "exception", "step"),
    *_each("exit 7", "exception", "setup", "data", "step", "evaluate", "save"),
    *_each("exit 137", "exception", "step"),
    *_each("signal SIGKILL", "killed", "setup", "data", "step", "evaluate", "save"),
    *_each("signal SIGSEGV", "killed", "step", "data"),
    *_each("signal SIGBUS", "killed", "data"),
    *_each("signal SIGABRT", "killed", "step", "save"),
    *_each("signal SIGFPE", "killed", "step"),
    *_each("fail RuntimeError", "exception", "setup", "data", "step", "evaluate", "save"),
    *_each("fail ValueError", "exception", "step"),
    *_each("fail KeyError", "exception", "data"),
    *_each("fail OSError", "exception", "step"),
    *_each("fail AssertionError", "exception", "step"),
    *_each("fail SystemExit", "exception", "step"),
    *_each("fail MemoryError", "out of memory", "setup", "step"),
    *_each("fail cuda", "out of memory", "step", "evaluate"),
    *_each("allocate tensors", "out of memory", "step", "setup"),
    *_each("allocate bytes", "out of memory", "data", "step"),
    *_each("signal SIGSTOP", "hang", "data", "step", "evaluate", "save"),
    *_each("sleep 600", "hang", "data", "step", "evaluate", "save"),
    *_each("spin 600", "hang", "step"),
    *_each("hold 600", "hang", "data", "step"),
    *_each("signal SIGTERM", "signal", "step", "data"),
    *_each("sleep 2", "finished", "data", "step"),  # slow, and not late
]
FROM_OUTSIDE = [
    Fault("disk_full", "save", "exception", names_the_rank=False),
    Fault("diverging", "step", "exception", step=2, names_the_rank=False, config=DIVERGES),
    Fault("no_dataset", "data", "data", names_the_rank=False),
    Fault("silent_storage", "save", "data", names_the_rank=False, config=FROM_AFAR),  # all that was done is saved first
    Fault("stop_file", "step", "stop file", names_the_rank=False),
    Fault("signal_to_launcher", "step", "signal", names_the_rank=False),
    Fault("killed_launcher", "step", "killed", names_the_rank=False),
    Fault("paused_rank", "step", "finished"),
    Fault("paused_storage", "data", "finished", names_the_rank=False, config={"data": {"retry_s": 20.0}}),
]
CORPUS = {fault.name: fault for fault in (*INJECTED, *FROM_OUTSIDE)}


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Every kind of fault in turn, to the first and to the last rank."""
    names = [*CORPUS, *ON_A_CLUSTER]
    return [
        {"seed": seed * 10_000 + i, "fault": names[i % len(names)], "rank": (i // len(names) + i + 1) % WORLD}
        for i in range(count)
    ]


@lru_cache(maxsize=1)
def datasets() -> Path:
    """A folder with train/ and val/."""
    root = Path(mkdtemp(prefix="soak-verdicts-"))
    make_dataset(root / "train", 352, size=(40, 32))
    make_dataset(root / "val", 64, size=(40, 32), seed=1)
    return root


def write(path: Path, place: str, fault: Fault, steps: int = 30) -> Path:
    """The run that is to be hurt: an evaluation every 12 steps, a checkpoint every five."""
    evaluate = {"every_steps": 12, "crop": 1.0, "batch_size": 8}
    more = {"steps": steps, "evaluate": evaluate, "watchdog": LIMITS, "slurm": None} | fault.config
    data = {"train": f"{place}/train", "val": f"{place}/val", "retry_s": 2.0} | more.pop("data", {})
    return write_run(path, Path(), data=data, **(runs.tree() | more))


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run that is hurt once."""
    if trial["fault"] in ON_A_CLUSTER:
        return run_on_a_cluster(trial["fault"], datasets() / "train", folder)
    fault, rank = CORPUS[trial["fault"]], trial["rank"]
    if (outside := OUTSIDE.get(fault.what)) is None:
        attempt = Attempt(write(folder / "run.yaml", str(datasets()), fault), fault, rank)
        attempt.end()
    else:
        attempt = outside(fault, rank, folder, random.Random(trial["seed"]))
    return attempt.judged()


class Attempt:
    """One start of `vitstream train`, with a fault to come."""

    def __init__(self, run_yaml: Path, fault: Fault, rank: int) -> None:
        self.yaml, self.fault, self.rank = run_yaml, fault, rank
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{CHECKOUT}:{INJECT}"}
        if fault.what not in OUTSIDE:
            wanted = {"rank": rank, "phase": fault.phase, "step": fault.step, "what": fault.what}
            environment["FAULT"] = json.dumps(wanted)
        self.launcher = start("train", run_yaml, "--nproc", WORLD, fork=False, env=environment)
        self.said = ""

    def until_step(self, step: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.launcher.poll() is None and max(steps_of(self.yaml), default=0) < step:
            assert time.monotonic() < deadline, f"step {step} does not come"
            time.sleep(0.02)

    def ranks(self) -> list[psutil.Process]:
        """In order."""
        processes = psutil.Process(self.launcher.pid).children()
        return sorted(processes, key=lambda process: int(process.environ()["RANK"]))

    def end(self) -> "Attempt":
        """Waits for it."""
        try:
            self.said = "\n".join(self.launcher.communicate(timeout=PATIENCE_S))[-3000:]
        except subprocess.TimeoutExpired:
            self.launcher.kill()
            raise AssertionError(f"{self.fault.name}: it never ends") from None
        return self

    def judged(self) -> dict[str, Any]:
        """What the verdict says is what was done."""
        verdict, fault = verdict_of(self.yaml, 0), self.fault
        seen = json.dumps(verdict)
        assert verdict["cause"] == fault.cause, f"{fault.name}, rank {self.rank}: cause {seen}"
        if fault.cause not in ("finished", "killed") or fault.what != "killed_launcher":
            code = {"finished": 0, "usage": 2, "signal": 3, "stop file": 3}.get(fault.cause, 1)
            assert self.launcher.returncode == code, (self.launcher.returncode, self.said)
        if fault.cause in ("finished", "signal", "stop file", "usage"):
            return {"faults": 1, "cause": fault.cause}
        if fault.names_the_rank:
            assert (verdict["rank"], verdict["host"]) == (self.rank, socket.gethostname()), f"{fault.name}: rank {seen}"
        assert verdict["phase"] == fault.phase, f"{fault.name}: phase {seen}"
        if verdict["step"] is not None and fault.phase != "setup":
            assert fault.step - 1 <= verdict["step"] <= fault.step or not fault.names_the_rank, f"{fault.name}: {seen}"
        return {"faults": 1, "cause": fault.cause}


# -- what is done from outside -------------------------------------------------------------------------------------


def _begin(fault: Fault, rank: int, folder: Path, steps: int = 200) -> Attempt:
    attempt = Attempt(write(folder / "run.yaml", str(datasets()), fault, steps), fault, rank)
    attempt.until_step(fault.step)
    return attempt


def disk_full(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    """On a small file system; the last checkpoint, without which the run is not done, does not fit."""
    disk = folder / "run"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        attempt = _begin(fault, rank, folder, steps=60)
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(file.tell() - 2**16)  # enough for a verdict
        attempt.end()
        (disk / "filler").unlink()
        shutil.copytree(disk, folder / "kept")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    shutil.rmtree(disk)
    (folder / "kept").rename(disk)
    return attempt


def diverging(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    return _begin(fault, rank, folder).end()


def no_dataset(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    """Its indexes are no indexes, which the ranks are the first to see."""
    shutil.copytree(datasets(), folder / "data")
    yaml = write(folder / "run.yaml", str(folder / "data"), fault)
    for index in (folder / "data" / "train").rglob("*.arrow"):
        index.write_bytes(b"")
    return Attempt(yaml, fault, rank).end()


def silent_storage(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    """From some step on nothing can be read: each image is a hole, and too many are no training."""
    return _stalled(fault, rank, folder, None)


def paused_storage(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    """For less time than it is waited for."""
    return _stalled(fault, rank, folder, 8.0)


def _stalled(fault: Fault, rank: int, folder: Path, seconds: float | None) -> Attempt:
    served = Folder(datasets())
    with served.running() as url:
        attempt = Attempt(write(folder / "run.yaml", url, fault, 60), fault, rank)
        attempt.until_step(fault.step)
        served.stall()
        if seconds is not None:
            time.sleep(seconds)
            served.flow()
        return attempt.end()


def stop_file(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    attempt = _begin(fault, rank, folder)
    assert vitstream("stop", folder / "run").returncode == 0
    return attempt.end()


def signal_to_launcher(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    attempt = _begin(fault, rank, folder)
    attempt.launcher.send_signal(chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)))
    return attempt.end()


def killed_launcher(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    """With it die its ranks; the next start says so."""
    attempt = _begin(fault, rank, folder)
    attempt.launcher.kill()
    attempt.end()
    done = vitstream("train", attempt.yaml, "--nproc", WORLD, "--set", "steps=1", "--accept-changes")
    assert done.returncode in (0, 2), done.stderr
    return attempt


def paused_rank(fault: Fault, rank: int, folder: Path, chance: random.Random) -> Attempt:
    """For less time than silence is allowed."""
    attempt = _begin(fault, rank, folder, steps=60)
    hurt = attempt.ranks()[rank]
    hurt.suspend()
    time.sleep(LIMITS["silent_s"] / 2)
    hurt.resume()
    return attempt.end()


OUTSIDE: dict[str, Callable[[Fault, int, Path, random.Random], Attempt]] = {
    each.__name__: each
    for each in (
        disk_full,
        diverging,
        no_dataset,
        silent_storage,
        paused_storage,
        stop_file,
        signal_to_launcher,
        killed_launcher,
        paused_rank,
    )
}

MATRIX = Matrix(
    "verdicts",
    f"a run on two ranks, or on a cluster of two nodes, is hurt in one of {len(CORPUS) + len(ON_A_CLUSTER)} ways (exit"
    " codes, signals, exceptions, no memory, hangs of several kinds, a full disk, diverging, data that does not come, a"
    " lost node, the end of its time) in each of its phases: the verdict has the right cause, first rank, host and"
    " phase, and what is only slow is not stopped",
    2 * (len(CORPUS) + len(ON_A_CLUSTER)),
    trials,
    run,
)
