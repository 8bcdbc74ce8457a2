"""The login node's side on a real cluster: what sbatch, squeue and scontrol really do with what we give them."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.cluster import chain, hosts, queue
from pipeline.run.directory import RunDirectory
from pipeline.run.verdict import read_verdict
from tests.datasets import make_dataset
from tests.runs import one_line, vitstream, write_run
from tests.slurm.cluster import Cluster

SLURM = {"nodes": 2, "tasks_per_node": 1, "time": "10", "mem": "1500M"}

QUIETLY = ["--output=/dev/null"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train"
    make_dataset(path, 200, shards=1, size=(40, 40))
    return path


@pytest.fixture
def here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process asks that cluster; what a command needs for it."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VITSTREAM_SITE", os.devnull)
    return cluster.environment | {"VITSTREAM_SITE": os.devnull, "OMP_NUM_THREADS": "1"}


def waits_for(what, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
    return found


@pytest.mark.parametrize(
    "nodes", ["n[1-3]", "a[01-03,7]-ib0", "r[1-2]n[3-4]", "n1", "n[9-11],x", "a[01-03,7]", "c[1-2],d"]
)
def test_lists_of_hosts_are_what_scontrol_takes_them_for(here: dict[str, str], nodes: str) -> None:
    assert queue.hostnames(nodes) == hosts.expand(nodes)


def test_nodes_have_addresses(cluster: Cluster, here: dict[str, str]) -> None:
    assert queue.addresses("node[1-3]") == cluster.nodes


def test_a_chain_trains_to_the_end_and_says_how_it_is(cluster, here, data, tmp_path) -> None:
    """In a folder whose name would not survive a careless script."""
    folder = tmp_path / ("it's $(touch never); 100% %j \"" * 6) / ("日本😀" * 20) / ("y z;&|<>*?[]{}~!#^" * 12)
    folder.mkdir(parents=True)
    run = write_run(folder / "run.yaml", data, slurm=SLURM, epochs=6)
    done = vitstream("submit", run, "--json", **here)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    first, *rest = told["jobs"]
    assert len(rest) == 2 and re.match(r"at \d{4}-.* on nodes node\[1-2\]", told["start"])
    one_line(vitstream("submit", run, **here), f"job {first}", "stop them first")
    status = json.loads(vitstream("status", run, "--json", **here).stdout)
    assert status["state"] == "running" and [job["id"] for job in status["jobs"]] == told["jobs"]
    assert [job["reason"] for job in status["jobs"][1:]] == ["Dependency"] * 2
    log = vitstream("logs", run, "--job", "--follow", **here)
    assert log.returncode == 0 and f"job {first}: finished" in log.stdout, log.stdout + log.stderr
    assert cluster.wait_for(*told["jobs"]) == ["COMPLETED", "CANCELLED", "CANCELLED"]
    done = vitstream("status", run, **here)
    assert done.returncode == 0 and ": finished" in done.stdout.splitlines()[0]
    assert "finished: 38 steps" in vitstream("logs", run).stdout
    assert vitstream("logs", run, "--rank", 1).returncode == 0
    assert not list(tmp_path.rglob("never")) and not list(Path.cwd().glob("never"))


def test_what_waits_is_cancelled_what_runs_is_stopped(cluster, here, data, tmp_path) -> None:
    """By the bash of a dry run; and a site's set-up is sourced."""
    (tmp_path / "setup.sh").write_text("export OMP_NUM_THREADS=1\necho the set-up was sourced\n")
    (tmp_path / "site.yaml").write_text(f"setup: {tmp_path}/setup.sh\noptions: [--comment=spring]\n")
    here = here | {"VITSTREAM_SITE": str(tmp_path / "site.yaml")}
    run = write_run(tmp_path / "run.yaml", data, slurm=SLURM, epochs=500)
    blocker = int(
        cluster.run("sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 99")
    )
    printed = vitstream("submit", run, "--dry-run", **here).stdout
    bash = {"input": printed, "text": True, "capture_output": True, "cwd": tmp_path}
    path = {"PYTHONPATH": str(Path(chain.__file__).parents[2])}
    done = subprocess.run(["bash", "-eu"], env=os.environ | path | here, **bash)
    assert (done.returncode, done.stderr) == (0, "")
    jobs = chain.jobs(tmp_path / "run")
    assert len(jobs) == 3 and all(job.is_waiting for job in jobs)
    assert "comment=spring" in cluster.run("scontrol", "show", "job", jobs[0].id).lower()
    done = vitstream("status", run, **here)
    assert done.returncode == 0 and ": queued" in done.stdout and "waits for" in done.stdout, done.stdout
    done = vitstream("stop", run, **here)
    assert done.returncode == 0 and "cancelled, before any had started" in done.stdout
    assert cluster.wait_for(*[job.id for job in jobs]) == ["CANCELLED"] * 3
    assert vitstream("status", run, **here).returncode == 1, "it never started, and its chain is gone"
    cluster.run("scancel", blocker)

    assert vitstream("submit", run, **here).returncode == 0
    waits_for(lambda: list((tmp_path / "run" / "checkpoints").glob("step-*5")))
    done = vitstream("stop", run, "--wait", "--reason", "enough", **here)
    assert done.returncode == 0 and "enough" in done.stdout, done.stderr
    assert cluster.wait_for(*chain.recorded(tmp_path / "run")[3:]) == ["FAILED", "CANCELLED", "CANCELLED"]
    verdict = read_verdict(RunDirectory(tmp_path / "run").attempt(0))
    assert verdict is not None and verdict.cause == "stop file"
    done = vitstream("status", run, **here)
    assert done.returncode == 3 and ": stopped" in done.stdout
    assert "the set-up was sourced" in vitstream("logs", run, "--job", **here).stdout


def test_hosts_are_kept_from_what_waits_beside_those_the_user_named(cluster, here, data, tmp_path) -> None:
    name = chain.chain_name(tmp_path)
    waiting = int(
        cluster.run("sbatch", "--parsable", "--hold", *QUIETLY, "--exclude=node2", f"--job-name={name}", "--wrap=true")
    )
    chain.exclude([waiting], ["node1", "--help", "node1"])
    details = queue.details(waiting)
    assert details is not None and sorted(queue.hostnames(details.excluded)) == ["node1", "node2"]
    assert chain.hosts_left(waiting, ["node2"]) == len(cluster.nodes) - 2 and chain.hosts_left(10**6, []) is None
    assert [job.id for job in chain.jobs(tmp_path)] == [waiting]
    assert chain.jobs(tmp_path)[0].reason == "JobHeldUser"
    assert chain.cancel_successors(tmp_path, but=waiting) == []
    assert chain.cancel_successors(tmp_path) == [waiting]
    assert cluster.wait_for(waiting) == ["CANCELLED"]
    assert queue.details(10**6) is None and queue.jobs_with([10**6, 10**6 + 1]) == []


def test_what_slurm_refuses_leaves_nothing_behind(cluster, here, data, tmp_path) -> None:
    run = write_run(tmp_path / "run.yaml", data, slurm=SLURM)
    one_line(vitstream("submit", run, "--set", "slurm.partition=nowhere", **here), "sbatch: ", "partition", code=1)
    one_line(vitstream("submit", run, "--set", "slurm.nodes=9", **here), "sbatch: ", code=1)
    one_line(vitstream("submit", run, "--after", 10**6, **here), "--after", "no such job")
    failed = int(cluster.run("sbatch", "--parsable", *QUIETLY, "--wrap=false"))
    assert cluster.wait_for(failed) == ["FAILED"]
    one_line(vitstream("submit", run, "--after", failed, **here), "--after", "FAILED")
    assert not list((tmp_path / "run").glob("submit/*")) and chain.jobs(tmp_path / "run") == []


def test_where_no_cluster_is_configured_it_says_so(data, tmp_path) -> None:
    run = write_run(tmp_path / "run.yaml", data, slurm=SLURM)
    environment = {"SLURM_CONF": os.devnull, "VITSTREAM_SITE": os.devnull}
    one_line(vitstream("submit", run, **environment), "vitstream train", "--dry-run")
