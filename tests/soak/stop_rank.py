"""Ranks of real runs under a launcher that is not ours: `python -m tests.soak.stop_rank`.

It imports once what training needs, and forks, for every line of its standard input (`Start` as JSON), what srun or
torchrun is: a process group of a parent and its ranks. Once a rank has ended with an error, the parent gives the others
some time, sends them SIGTERM, and kills them. How all ended, it says in FOLDER/codes.json.
"""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.dataset.processes import die_with
from tests.nest import fork_python, import_all
from tests.soak.stream_rank import hatch

GRACE_S = 10.0


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    folder: str  # where ranks meet, and what they say
    run: str  # its YAML
    ranks: int

    @property
    def world(self) -> int:
        """Of what the nest is asked for: one parent."""
        return 1

    def line(self, rank: int) -> str:
        """What the nest is told."""
        return json.dumps(asdict(self)) + "\n"


def _parent(line: str) -> None:
    """Signals that reach the whole group are none of its business."""
    os.setsid()
    die_with(os.getppid())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    start = Start(**json.loads(line))
    ranks = [_fork(start, rank) for rank in range(start.ranks)]
    codes: dict[int, int] = {}
    failed_at = None
    while len(codes) < len(ranks):
        for pid in ranks:
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
        if any(codes.values()):
            failed_at = failed_at or time.monotonic()
            late_s = time.monotonic() - failed_at
            if late_s > GRACE_S:
                for pid in set(ranks) - set(codes):
                    os.kill(pid, signal.SIGKILL if late_s > 2 * GRACE_S else signal.SIGTERM)
        time.sleep(0.01)
    said = Path(start.folder) / "codes.json"
    said.with_suffix(".tmp").write_text(json.dumps([codes[pid] for pid in ranks]))
    said.with_suffix(".tmp").rename(said)


def _fork(start: Start, rank: int) -> int:
    """A rank, as a command's process would be: with the signals' default dispositions until it says otherwise."""
    parent = os.getpid()
    if pid := os.fork():
        return pid
    die_with(parent)
    fork_python()  # the loader's fork server
    try:
        _rank(start, rank)
        code = 0
    except BaseException as error:
        print(error, flush=True)
        code = getattr(error, "exit_code", 1)
    os._exit(code)


def _rank(start: Start, rank: int) -> None:
    from pipeline.launch.environment import RENDEZVOUS, STOP_SIGNALS, RankEnvironment
    from pipeline.rank import run_rank

    log = os.open(Path(start.folder) / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(log, standard)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # no interpreter has to start first, which takes a while
    os.environ[RENDEZVOUS] = str(Path(start.folder) / "rendezvous")
    run_rank(RankEnvironment(rank, start.ranks, rank), Path(start.run), [], from_scratch=False, accept_changes=False)


if __name__ == "__main__":
    import_all()  # before forking, so that ranks need not
    hatch(_parent)
