"""Ranks for tests, without our launcher: as torchrun would have started them, but forked (nest.py)."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pipeline.launch.environment import ATTEMPT, MASTER_ADDRESS, PARENT_PID, RENDEZVOUS
from tests.nest import Hatched


class Ended(NamedTuple):
    """What became of ranks."""

    codes: list[int]  # exit codes; minus the signal's number where one killed it
    said: list[str]  # stdout of each
    stderr: str  # of all

    @property
    def stdout(self) -> str:
        """Of rank 0, which alone speaks."""
        return self.said[0]


def run_ranks(module: str, arguments: Sequence[object], world: int, patience_s: float = 300.0) -> Ended:
    """`python -m MODULE ARGUMENTS...` as `world` ranks of one machine, to their end, in our environment.

    They meet with gloo. Once one of them fails, the others are killed. Raises AssertionError where they take longer
    than `patience_s`.
    """
    with TemporaryDirectory(prefix="ranks-") as folder:
        ranks = [_begin([module, *map(str, arguments)], rank, world, Path(folder)) for rank in range(world)]
        deadline = time.monotonic() + patience_s
        while any(rank.poll() is None for rank in ranks):
            late = time.monotonic() > deadline
            if late or any(rank.returncode for rank in ranks):
                for rank in ranks:
                    rank.kill()
            assert not late, f"ranks that do not end: {module} {arguments}"
            time.sleep(0.005)
        out, err = ([(Path(folder) / f"{rank}.{end}").read_text() for rank in range(world)] for end in ("out", "err"))
        return Ended([rank.returncode for rank in ranks], out, "".join(err))


def _begin(words: list[str], rank: int, world: int, folder: Path) -> Hatched:
    ours = {name: value for name, value in os.environ.items() if name not in (PARENT_PID, ATTEMPT, MASTER_ADDRESS)}
    told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), RENDEZVOUS: f"{folder}/meet"}
    environment = {"GLOO_SOCKET_IFNAME": "lo"} | ours | told
    with (folder / f"{rank}.out").open("wb") as out, (folder / f"{rank}.err").open("wb") as err:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        return Hatched([sys.executable, "-m", *words], env=environment, **pipes)
