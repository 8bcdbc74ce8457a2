"""Pairs of jobs that start at once on the same nodes: each one's ranks meet at a port of their own."""

import atexit
import json
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.datasets import make_dataset
from tests.slurm import runs
from tests.slurm.cluster import Cluster, why_not
from tests.slurm.runs import ClusterRun
from tests.soak.matrix import Matrix

PAIR = 2


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"seed": seed * 1000 + i} for i in range(count)]


@lru_cache(maxsize=1)
def cluster() -> Cluster:
    """Two nodes. It ends with this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Cluster(Path(mkdtemp(prefix="soak-ports-")) / "slurm"))


@lru_cache(maxsize=1)
def images() -> Path:
    path = Path(mkdtemp(prefix="soak-images-")) / "images"
    make_dataset(path, 64, size=(40, 32))
    return path


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One pair, let go at once from behind a job that has both nodes; by the same addresses, in the same order."""
    if (reason := why_not()) is not None:
        return {"faults": 0, "skipped": reason}
    here = cluster()
    here.wait_for_nodes(60)
    before = ("--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 100")
    first = int(here.run("sbatch", *before))
    pair = [
        ClusterRun(here, runs.write(folder / f"run-{number}.yaml", images(), tasks=1, steps=2)).sbatch(
            1, "--nodes=2", "--ntasks-per-node=1", "--time=10"
        )
        for number in range(PAIR)
    ]
    here.run("scancel", first)
    for each in pair:
        assert each.until_over(180) == ["COMPLETED"], each.said()
        assert each.attempts() == 1, each.said()
    met = [json.loads((each.folder / "attempts/000/rendezvous.json").read_text()) for each in pair]
    assert pair[0].hosts(0) == pair[1].hosts(0), "they were not on the same nodes"
    began = [json.loads((each.folder / "attempts/000/attempt.json").read_text())["started"] for each in pair]
    return {"faults": 1, "ports": [place["port"] for place in met], "apart_s": round(abs(began[0] - began[1]), 2)}


MATRIX = Matrix(
    "ports",
    "two runs that SLURM lets go at once on the same two nodes: the ranks of each meet, at a port of their own, and"
    " both end well in their first attempt",
    50,
    trials,
    run,
)
