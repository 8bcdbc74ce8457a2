"""Where the ranks of runs without a model are born, and how one sees from outside what became of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import psutil

from tests.runs import CHECKOUT
from tests.soak.stream_life import Life
from tests.soak.stream_truth import Stretch

PATIENCE_S = 60.0  # until ranks that say nothing are said to hang
_PRIVATE = ("unshare", "--map-root-user", "--mount")
_OWN_SHM = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'


class Attempt(Protocol):
    """What ranks are to do together, and where they say how it ended."""

    @property
    def folder(self) -> str: ...

    @property
    def world(self) -> int: ...

    def line(self, rank: int) -> str:
        """What the nest is told."""


class Nest:
    """A process that has imported what ranks need, and forks them (stream_rank.py).

    Args:
        environment: the ranks', beside ours.
        own_shm: whether they get a /dev/shm of their own, where this machine lets us: nobody else writes to it.
        stderr: what they say there goes to this file.
        module: which such process.
    """

    def __init__(
        self,
        environment: dict[str, str] | None = None,
        own_shm: bool = False,
        stderr: Path | None = None,
        module: str = "tests.soak.stream_rank",
    ) -> None:
        own_shm = own_shm and subprocess.run([*_PRIVATE, "sh", "-c", _OWN_SHM, "sh", "true"]).returncode == 0
        command = [*_PRIVATE, "sh", "-c", _OWN_SHM, "sh"] if own_shm else []
        command += [sys.executable, "-m", module]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with stderr.open("ab") if stderr else nullcontext() as file:
            self.process = subprocess.Popen(
                command, env=os.environ | (environment or {}), text=True, cwd=CHECKOUT, stderr=file, **pipes
            )
        assert self.process.stdout and self.process.stdout.readline() == "ready\n", "the nest does not start"

    @property
    def shm(self) -> Path:
        """The ranks' /dev/shm."""
        return Path(f"/proc/{self.process.pid}/root/dev/shm")

    def begin(self, life: Attempt) -> list[int]:
        """Starts an attempt. Returns its ranks' processes."""
        Path(life.folder).mkdir(parents=True)
        stdin, stdout, pids = self.process.stdin, self.process.stdout, []
        assert stdin and stdout
        for rank in range(life.world):
            stdin.write(life.line(rank))
            stdin.flush()
            pids.append(int(stdout.readline()))
        return pids

    def close(self) -> None:
        """No more ranks."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@lru_cache(maxsize=1)
def nest() -> Nest:
    """One for all that need nothing special. It ends with this process."""
    return Nest()


def workers_of(rank: int) -> list[int]:
    """Its loader workers: the children of its fork server."""
    found = []
    for pid in session(rank):
        try:
            if "nursery import serve" in " ".join(psutil.Process(psutil.Process(pid).ppid()).cmdline()):
                found.append(pid)
        except psutil.Error:
            continue
    return found


def send(pid: int) -> None:
    """SIGKILL, to one that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The processes of a rank that live: itself, its fork server, its workers."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def alive(pids: list[int]) -> list[int]:
    """Those that have not ended."""
    return [pid for pid in pids if psutil.pid_exists(pid)]


def wait_until_gone(pids: list[int], otherwise: str) -> None:
    """Until all have ended."""
    wait_for(lambda: not alive(pids), otherwise)


def wait_for(true: Callable[[], bool], otherwise: str, patience_s: float = PATIENCE_S) -> None:
    """Returns once it is true; AssertionError if it does not become so."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.005)


def endings(life: Attempt) -> list[str]:
    """What each rank said in the end."""
    files = [Path(life.folder) / f"{rank}.end" for rank in range(life.world)]
    return [file.read_text() if file.exists() else "nothing" for file in files]


def steps_of(life: Life, rank: int) -> list[Stretch]:
    """A rank's share of the steps that it has done."""
    file = Path(life.folder) / f"{rank}.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [Stretch.from_json(json.loads(line)) for line in lines if line.endswith("\n")]
