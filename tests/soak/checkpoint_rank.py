"""Ranks of real runs, quickly: `python -m tests.soak.checkpoint_rank`.

It imports once what training needs, and forks a rank for every line of its standard input (stream_rank.py): a `Start`
as JSON, and the rank's number. Such a rank does what `vitstream train` does in a process that torchrun has made one.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.nest import fork_python, import_all
from tests.soak.stream_rank import hatch


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    folder: str  # where ranks meet, and say how it ended
    run: str  # its YAML
    overrides: list[str]
    world: int

    def line(self, rank: int) -> str:
        """What the nest is told."""
        return json.dumps(asdict(self) | {"rank": rank}) + "\n"


def _born(line: str) -> None:
    """A forked rank. It says `done` or why it did not start, or ends before that, as a rank that failed does."""
    from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
    from pipeline.rank import run_rank

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fork_python()  # the loader's fork server
    body = json.loads(line)
    rank, start = body.pop("rank"), Start(**body)
    folder = Path(start.folder)
    os.environ[RENDEZVOUS] = str(folder / "rendezvous")
    with (folder / f"{rank}.log").open("wb", buffering=0) as log:
        for standard in (sys.stdout, sys.stderr):
            standard.flush()
            os.dup2(log.fileno(), standard.fileno())
    try:
        run_rank(RankEnvironment(rank, start.world, rank), Path(start.run), start.overrides, False, False)
        said = "done"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    (folder / f"{rank}.end").write_text(said)


if __name__ == "__main__":
    import_all()  # before forking, so that ranks need not
    hatch(_born)
