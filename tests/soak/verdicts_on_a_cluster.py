"""The part of the verdict corpus that takes a cluster: what SLURM does to a run, and what it says of a rank's death."""

import atexit
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.slurm import runs
from tests.slurm.cluster import Cluster, why_not
from tests.slurm.runs import ClusterRun


def _kill(run: ClusterRun) -> None:
    run.kill_rank(1)


def _crash(run: ClusterRun) -> None:
    run.kill_rank(1, signal.SIGSEGV)


def _stop(run: ClusterRun) -> None:
    run.kill_rank(1, signal.SIGSTOP)


def _lose(run: ClusterRun, node: str) -> None:
    run.cluster.kill_node(node, told=False)


def _cancel(run: ClusterRun) -> None:
    run.cluster.run("scancel", run.running())


def _preempt(run: ClusterRun) -> None:
    options = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    run.cluster.run("sbatch", *options, "--wrap=true")


def _shorten(run: ClusterRun) -> None:
    run.cluster.run("scontrol", "update", f"JobId={run.running()}", "TimeLimit=2")


# name -> what is done to a run, and the verdict's cause, rank and host; None: nobody's
ON_A_CLUSTER: dict[str, tuple[Callable[[ClusterRun], object], str, int | None, str | None]] = {
    "killed rank on a cluster": (_kill, "killed", 1, "node2"),
    "crashed rank on a cluster": (_crash, "killed", 1, "node2"),
    "stopped rank on a cluster": (_stop, "hang", 1, "node2"),
    "warned on a cluster": (ClusterRun.warn, "signal", None, None),
    "cancelled on a cluster": (_cancel, "cancelled", None, None),
    "preempted on a cluster": (_preempt, "preempted", None, None),
    "out of time on a cluster": (_shorten, "time limit", None, None),
    "lost node": (lambda run: _lose(run, "node2"), "node lost", 1, "node2"),
    "lost first node": (lambda run: _lose(run, "node1"), "node lost", 0, "node1"),
}
_SLOW = ("out of time on a cluster",)  # SLURM looks at the time every half a minute


@lru_cache(maxsize=1)
def _cluster() -> Cluster:
    """It ends with this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Cluster(Path(mkdtemp(prefix="soak-cluster-")) / "slurm"))


def run_on_a_cluster(fault: str, data: Path, folder: Path) -> dict[str, Any]:
    """One run that is hurt once, and goes on where it should."""
    if (reason := why_not()) is not None:
        return {"faults": 0, "skipped": reason}
    hurt, cause, rank, host = ON_A_CLUSTER[fault]
    cluster = _cluster()
    cluster.wait_for_nodes(60)
    steps = 2000 if fault in _SLOW else runs.STEPS
    run = ClusterRun(cluster, runs.write(folder / "run.yaml", data, tasks=1, steps=steps)).submit()
    try:
        run.until_steps(8, attempt=0)
        hurt(run)
        if host and cause == "node lost":
            cluster.wait_for_death(host)
            cluster.start_node(host)
        run.until_verdict(0, seconds=120)  # a rank's, perhaps, which the supervisor then overrules
        if fault in _SLOW:
            run.until(lambda: run.states()[0] not in ("RUNNING", "COMPLETING"), "the end of the first job")
        else:
            run.until_over(180)
            after = "cancelled" if cause == "cancelled" else "finished"
            assert run.verdict(run.attempts() - 1)["cause"] == after, run.said()
    finally:
        if jobs := run.jobs():
            cluster.run("scancel", *jobs)
    verdict = run.verdict(0)
    assert verdict["cause"] == cause, (fault, verdict, run.said())
    assert host is None or (verdict["rank"], verdict["host"]) == (rank, host), (fault, verdict)
    return {"faults": 1, "cause": cause}
