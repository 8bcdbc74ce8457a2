"""The processes of a run under way, as Linux shows them in /proc: our launcher, its ranks, and what those started."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from pipeline.dataset.processes import die_with

PATIENCE_S = 60.0  # until the processes of a run that has ended are gone
LONGEST_S = 1800.0  # that a small run may take: one that takes longer hangs


class Family(Protocol):
    """A run that was started."""

    @property
    def ranks(self) -> list[int]:
        """Process ids, by rank; fewer while they are being started."""

    @property
    def head(self) -> int | None:
        """The launcher's process id; None where ranks have none of ours."""

    def alive(self) -> bool:
        """Whether it is under way."""

    def wait(self) -> int:
        """Until all its processes have ended. Returns the exit code. Raises TimeoutError where one does not end."""


class Start(Protocol):
    """How runs are started."""

    def __call__(self, run_yaml: Path, processes: int, log: Path) -> Family: ...


@dataclass
class Launched:
    """A `vitstream train` of this machine."""

    process: subprocess.Popen
    processes: int

    @classmethod
    def start(cls, run_yaml: Path, processes: int, log: Path) -> "Launched":
        """`log` gets what it prints."""
        command = [sys.executable, "-P", "-m", "pipeline.cli", "train", str(run_yaml), "--nproc", str(processes)]
        with log.open("ab") as file:
            with_us = partial(die_with, os.getpid())
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, preexec_fn=with_us)
            return cls(process, processes)

    @property
    def head(self) -> int:
        return self.process.pid

    @property
    def ranks(self) -> list[int]:
        return children(self.process.pid)[: self.processes]  # it starts them one by one, and nothing else

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> int:
        try:
            code = self.process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            for pid in session(self.process.pid):
                kill(pid)
            raise TimeoutError(f"the run has not ended after {LONGEST_S:.0f} s") from None
        wait_until_gone(session(self.process.pid))
        return code


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, oldest first; none of one that has ended."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def session(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                sid = (entry / "stat").read_text().rpartition(")")[2].split()[3]
                if int(sid) == leader and runs(int(entry.name)):
                    found.append(int(entry.name))
    return found


def wait_until_gone(pids: list[int], patience_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError."""
    ends = time.monotonic() + patience_s
    while left := [pid for pid in pids if runs(pid)]:
        if time.monotonic() > ends:
            raise TimeoutError(f"processes {left} do not end")
        time.sleep(0.005)


def runs(pid: int) -> bool:
    """Whether it has not ended. A zombie, of which nobody has asked how it ended, has, once all its threads are gone:
    until then it keeps its locks.
    """
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(list((process / "task").iterdir())) > 1
    except OSError:
        return False


def kill(pid: int) -> bool:
    """SIGKILL. Returns whether it was still there to be killed."""
    if not runs(pid):
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
