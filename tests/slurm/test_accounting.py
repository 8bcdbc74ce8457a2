"""A run on a cluster with slurmdbd: the same as on one without, and sacct knows its jobs."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.slurm.accounting import AccountedCluster, why_not
from tests.slurm.runs import ClusterRun, assert_same_as, write


def test_a_run_on_a_cluster_with_accounting(images, undisturbed_runs, tmp_path):
    if (reason := why_not()) is not None:
        pytest.skip(f"no accounting: {reason}")
    with (
        TemporaryDirectory(prefix="vitstream-accounting-", ignore_cleanup_errors=True) as folder,
        AccountedCluster(Path(folder) / "slurm") as cluster,
    ):
        run = ClusterRun(cluster, write(tmp_path / "run.yaml", images)).submit()
        first, *others = run.jobs()
        run.until_over()
        assert run.states() == ["COMPLETED"] + ["CANCELLED"] * len(others)
        assert_same_as(run, undisturbed_runs(4))
        assert "finished" in run.vitstream("status", run.folder).stdout
        assert accounted(cluster, first) == "COMPLETED"


def accounted(cluster: AccountedCluster, job: int) -> str:
    """What sacct says of a job, once the controller has told the daemon."""
    deadline = time.monotonic() + 20
    while True:
        said = cluster.run("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job}")
        if said.strip() not in ("", "RUNNING", "PENDING") or time.monotonic() > deadline:
            return said.strip()
        time.sleep(0.5)
