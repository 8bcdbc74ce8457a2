"""Training as a chain of jobs on a real cluster: it goes on by itself, whatever happens to it, or says why it does not.

What it has done in the end is, to the last bit, what a run on one machine does to which nothing happens.
"""

import json
import os
import pwd
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from tests.runs import CHECKOUT, one_line, vitstream
from tests.servers import Folder
from tests.slurm.cluster import PLAIN_USER, Cluster, why_not
from tests.slurm.runs import ClusterRun, assert_same_as, assert_unsaid, looking_for, write

QUIET = ("--output=/dev/null", "--wrap")
SECRET = "hunter2-0123456789abcdef"


def went_on(after: str, seconds: float) -> str:
    return f"after {after}: the first new step came {seconds:.1f} s later"


def test_it_goes_on_after_a_warning_a_killed_rank_and_a_stopped_one(cluster, images, undisturbed_runs, tmp_path, tell):
    run = ClusterRun(cluster, write(tmp_path / "my run.yaml", images, tasks=1))
    with looking_for(SECRET) as seen:
        run.submit(PLANTED_KEY=SECRET)
        first = run.jobs()[0]
        run.until_steps(8, attempt=0)
        tell(went_on("scancel -b -s USR1", run.hurt(run.warn, attempt=0)))
        assert run.running() != first
        run.until_steps(8, attempt=1)
        tell(went_on("a killed rank", run.hurt(lambda: run.kill_rank(1), attempt=1)))
        run.until_steps(8, attempt=2)
        tell(went_on("a stopped rank", run.hurt(lambda: run.kill_rank(1, signal.SIGSTOP), attempt=2)))
        states = run.until_over()
    assert_same_as(run, undisturbed_runs(2))
    assert states == ["FAILED", "FAILED", "COMPLETED", "CANCELLED"]
    assert run.hosts(2) == ["node1", "node2"] and run.hosts(3) == ["node1", "node3"], "node2 has failed twice"
    warned, killed, hung, _ = map(run.verdict, range(4))
    assert warned["cause"] == "signal" and warned["resumable"]
    assert (killed["cause"], killed["rank"], killed["host"]) == ("killed", 1, "node2"), killed
    assert (hung["cause"], hung["rank"], hung["host"]) == ("hang", 1, "node2"), hung
    assert hung["phase"] in ("data", "step", "save") and hung["step"] is not None
    attempt = run.folder / "attempts/002"
    assert "stopped" in (attempt / "kernel/rank-00001.txt").read_text()
    assert "pipeline/train.py" in (attempt / "stacks/rank-00000.txt").read_text()
    assert_unsaid(SECRET, run, seen)


def test_it_goes_on_when_preempted_and_when_a_node_dies(cluster, images, undisturbed_runs, tmp_path, tell):
    """The cluster finds out by itself that the node has died; and the job goes on on others, or waits for one."""
    run = ClusterRun(cluster, write(tmp_path / "run.yaml", images, tasks=1)).submit()
    run.until_steps(8, attempt=0)

    def preempt() -> None:
        cluster.run("sbatch", "--partition=high", "--nodes=3", "--exclusive", *QUIET, "sleep 1")

    tell(went_on("preempted", run.hurt(preempt, attempt=0)))
    run.until_steps(8, attempt=1)

    def cut() -> None:
        cluster.kill_node("node2", told=False)
        cluster.wait_for_death("node2")

    tell(went_on("a dead node, once SLURM knows it", run.hurt(cut, attempt=1)))
    cluster.start_node("node2")
    run.until_over()
    assert_same_as(run, undisturbed_runs(2))
    preempted, lost = run.verdict(0), run.verdict(1)
    assert preempted["cause"] == "preempted" and preempted["resumable"]
    assert lost["cause"] == "node lost" and lost["host"] == "node2", lost


def test_with_a_grace_time_it_is_preempted_too(images, undisturbed_runs, tmp_path):
    """On a cluster of its own, which gives a job some seconds: SLURM tells the ranks only, and nobody why."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no SLURM cluster: {reason}")
    with (
        TemporaryDirectory(prefix="vitstream-grace-", ignore_cleanup_errors=True) as folder,
        Cluster(Path(folder) / "slurm", grace_s=8) as cluster,
    ):
        run = ClusterRun(cluster, write(tmp_path / "run.yaml", images, tasks=1)).submit()
        run.until_steps(8, attempt=0)
        cluster.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", *QUIET, "sleep 1")
        run.until_over()
        assert_same_as(run, undisturbed_runs(2))
        verdict = run.verdict(0)
        assert (verdict["cause"], verdict["resumable"]) == ("preempted", True), verdict


def test_it_goes_on_after_the_time_limit(cluster, images, undisturbed_runs, tmp_path, tell):
    served = Folder(images.parent)
    with served.running() as url:
        run = ClusterRun(cluster, write(tmp_path / "run.yaml", f"{url}/{images.name}", tasks=1)).submit()
        run.until_steps(8, attempt=0)
        served.stall()  # it waits for data, as long as this takes: SLURM looks at the time every half a minute
        cluster.run("scontrol", "update", f"JobId={run.running()}", "TimeLimit=2")
        run.until_verdict(0)
        served.flow()
        tell(went_on("the time limit, once it has stopped", run.hurt(lambda: None, attempt=0)))
        run.until_over()
    verdict = run.verdict(0)
    assert verdict["cause"] == "time limit" and verdict["resumable"], verdict
    assert_same_as(run, undisturbed_runs(2))


def test_what_can_never_progress_stops_and_leaves_nothing_queued(cluster, images, tmp_path):
    """A dataset that goes while the run is queued; a step that always fails; memory in which no rank can start."""
    first = int(cluster.run("sbatch", "--parsable", "--partition=high", "--nodes=3", "--exclusive", *QUIET, "sleep 60"))
    gone = shutil.copytree(images, tmp_path / "gone")
    (tmp_path / "setup.sh").write_text("ulimit -v 700000\n")
    (tmp_path / "site.yaml").write_text(f"setup: {tmp_path / 'setup.sh'}\n")
    fault = {"rank": 1, "phase": "step", "step": 3, "what": "fail RuntimeError"}
    bad = ClusterRun(cluster, write(tmp_path / "bad.yaml", gone, tasks=1)).submit()
    failing = ClusterRun(cluster, write(tmp_path / "failing.yaml", images, tasks=1))
    failing.submit(FAULT=json.dumps(fault), PYTHONPATH=f"{CHECKOUT}:{CHECKOUT / 'tests/soak/inject'}")
    small = ClusterRun(cluster, write(tmp_path / "small.yaml", images, tasks=1))
    small.submit(VITSTREAM_SITE=str(tmp_path / "site.yaml"))
    shutil.rmtree(gone)
    cluster.run("scancel", first)
    for run, attempts in ((bad, 1), (failing, 2), (small, 2)):
        states = run.until_over()
        assert run.attempts() == attempts, run.said()
        assert states == ["FAILED", "CANCELLED", "CANCELLED", "CANCELLED"], run.said()
    verdict = bad.verdict(0)
    assert (verdict["cause"], verdict["phase"], verdict["resumable"]) == ("usage", "setup", False), verdict
    assert str(gone) in verdict["message"]
    verdict = failing.verdict(1)
    assert (verdict["cause"], verdict["phase"], verdict["step"]) == ("exception", "step", 2), verdict
    assert (verdict["rank"], verdict["host"]) == (1, failing.hosts(1)[1]) and "RuntimeError" in verdict["message"]
    verdict = small.verdict(1)
    assert (verdict["cause"], verdict["phase"]) == ("out of memory", "setup"), verdict
    assert verdict["host"] == small.hosts(1)[verdict["rank"]]
    for run, code, words in ((bad, 1, "gone"), (failing, 1, "RuntimeError"), (small, 1, "memory")):
        told = run.vitstream("status", run.folder)
        assert told.returncode == code and words in told.stdout, told.stdout + told.stderr


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of PLAIN_USER's."""
    user = pwd.getpwnam(PLAIN_USER)
    with TemporaryDirectory(prefix="vitstream-home-", ignore_cleanup_errors=True) as folder:
        os.chown(folder, user.pw_uid, user.pw_gid)
        yield Path(folder)


def test_a_plain_user_trains_on_gpus_of_which_each_rank_sees_all(cluster, images, home, undisturbed_runs):
    run_yaml = write(home / "run.yaml", images, slurm={"gpus_per_node": 2, "tasks_per_node": None})
    run = ClusterRun(cluster, run_yaml, PLAIN_USER)
    with looking_for(SECRET) as seen:
        run.submit(PLANTED_KEY=SECRET)
        run.until_steps(2, attempt=0)
        assert [run.rank(rank).environ()["CUDA_VISIBLE_DEVICES"] for rank in range(4)] == ["0,1"] * 4
        assert {run.rank(rank).username() for rank in range(4)} == {PLAIN_USER}
        run.until_over()
    assert_same_as(run, undisturbed_runs(4))
    assert_unsaid(SECRET, run, seen)


def test_without_slurm_it_says_so_and_shows_what_it_would_be(images, tmp_path):
    run = write(tmp_path / "run.yaml", images)
    alone = {"PATH": str(tmp_path)}
    one_line(vitstream("submit", run, **alone), "train", code=2)
    shown = vitstream("submit", run, "--dry-run", **alone)
    assert shown.returncode == 0 and "sbatch" in shown.stdout and "train.sbatch" in shown.stdout, shown.stderr
    assert yaml.safe_load(run.read_text())["slurm"]["nodes"] == 2
