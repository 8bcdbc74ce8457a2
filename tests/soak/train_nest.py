"""Where ranks of real runs are born fast: `python -m tests.soak.train_nest`.

It imports torch and DeepSpeed once, and forks a rank for every line of its standard input: the environment that a
launcher would give it, RUN.yaml and its log, as JSON. A rank is a session of its own and does what `vitstream train`
does under torchrun. Answers with the rank's process id.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pipeline.chaos.family import kill, session, wait_until_gone
from tests.runs import CHECKOUT

_GRACE_S = 2.0  # for the others to end by themselves


@dataclass
class Born:
    """The ranks of an attempt: what a launcher would do with them, without one."""

    ranks: list[int]
    codes: list[Path]  # where each leaves its exit code
    head: None = None
    _sessions: list[int] = field(default_factory=list)

    def alive(self) -> bool:
        """Whether all are under way: where one has ended, the others do not get far."""
        return all(Path(f"/proc/{pid}").exists() for pid in self.ranks)

    def wait(self) -> int:
        """As launch/local.py: once one has ended badly, the others get a moment, then they are killed."""
        while self.alive():
            time.sleep(0.005)
        codes = self._codes()
        ends = time.monotonic() + _GRACE_S
        while any(Path(f"/proc/{pid}").exists() for pid in self.ranks):
            codes = self._codes()
            if any(code != 0 for code in codes) and time.monotonic() > ends:
                for pid in self.ranks:
                    kill(pid)
                break
            time.sleep(0.005)
        wait_until_gone([pid for rank in self.ranks for pid in session(rank)])
        return max(self._codes())

    def _codes(self) -> list[int]:
        """Exit codes of those that have ended; 137 of one that could not say."""
        ended = [n for n, pid in enumerate(self.ranks) if not Path(f"/proc/{pid}").exists()]
        return [int(self.codes[n].read_text()) if self.codes[n].exists() else 137 for n in ended] or [0]


class Nest:
    """One process that forks ranks."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.soak.train_nest"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self._process = subprocess.Popen(command, env=environment, text=True, cwd=CHECKOUT, **pipes)
        assert self._process.stdout and self._process.stdout.readline() == "ready\n", "the nest does not start"
        self._attempts = 0

    def __call__(self, run_yaml: Path, processes: int, log: Path) -> Born:
        stdin, stdout, pids, codes = self._process.stdin, self._process.stdout, [], []
        assert stdin and stdout
        self._attempts += 1
        meeting = log.with_name(f"{log.name}.{self._attempts}")
        for rank in range(processes):
            codes.append(meeting.with_name(f"{meeting.name}.code-{rank}"))
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "VITSTREAM_RENDEZVOUS": meeting}
            env = {name: str(value) for name, value in places.items()}
            order = {"environment": env, "run": str(run_yaml), "log": str(log), "code": str(codes[-1])}
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            pids.append(int(stdout.readline()))
        return Born(pids, codes)


@lru_cache(maxsize=1)
def nest() -> Nest:
    """It ends with this process."""
    return Nest()


def _born(line: str) -> None:
    """A forked rank."""
    order = json.loads(line)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(order["environment"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for fd, mine in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(fd, mine)
    code, exit_ = Path(order["code"]), os._exit

    def leave(status: int) -> None:
        """Ranks that fail end so: nobody waits for them, and so they write how."""
        code.write_text(str(status))
        exit_(status)

    os._exit = leave  # type: ignore[assignment]
    from pipeline.cli import main

    sys.argv = ["vitstream", "train", order["run"]]
    try:
        main()
        leave(0)
    except SystemExit as error:
        leave(error.code if isinstance(error.code, int) else 1)


def main() -> None:
    """The nest."""
    import pipeline.train  # before forking, so that ranks need not
    from pipeline.engine import import_deepspeed

    import_deepspeed()
    assert pipeline.train
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel clears them away
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _born(line)
            finally:
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
