"""Sharding as a chain of jobs on a real cluster: the files are those of one process, whatever happens on the way."""

import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.runs import vitstream
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import OPTIONS, digests

SMALL = ["--tasks", 3, "--cpus-per-task", 2, "--mem", "1G", "--time", "10"]  # two on node1, one on node2


def submit(cluster: Cluster, photos: Path, out: Path) -> dict[str, int]:
    """Submits the preparation. Returns the ids of its jobs by name."""
    arguments = ["--json", *SMALL, "--", photos, "--out", out, *OPTIONS]
    done = vitstream("submit", "--prep", *arguments, cwd=out.parent, **cluster.environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["jobs"]


def logs(out: Path, name: str) -> str:
    return "".join(path.read_text() for path in sorted(out.with_name(f"{out.name}.logs").glob(f"prep-{name}*.log")))


def wait_for_shards(cluster: Cluster, jobs: dict[str, int], out: Path) -> list[str]:
    """Waits until every task is at work and a few shards are there. Returns the tasks."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = [task.number for task in cluster.tasks(jobs["shard"]) if task.state == "RUNNING"]
        if len(running) == 3 and len(list(out.glob("*/shards/*.tar"))) >= 2:
            return running
        time.sleep(0.05)
    raise TimeoutError(logs(out, ""))


def python_of(out: Path, task: str) -> psutil.Process:
    """The process, on whichever node, that does this task."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "pipeline.cli" in command and str(out) in command and f"{task}/3" in command:
            return process
    raise AssertionError(f"task {task} is nowhere")


def assert_only_whole_files(out: Path, undisturbed: dict[str, str]) -> None:
    seen = digests(out, besides=".shard-work")
    assert seen.items() <= undisturbed.items() and "train/dataset.json" not in seen


def test_an_array_makes_the_files_that_one_process_makes(cluster, photos, undisturbed, tmp_path):
    """By the commands of a dry run."""
    out = tmp_path / "it's $HOME"
    arguments = ["--dry-run", *SMALL, "--", photos, "--out", out, *OPTIONS]
    printed = vitstream("submit", "--prep", *arguments, **cluster.environment).stdout + 'echo "$finalize"\n'
    environment = os.environ | cluster.environment
    done = subprocess.run(["bash", "-eu"], input=printed, env=environment, capture_output=True, text=True, check=True)
    assert cluster.wait_for(int(done.stdout)) == ["COMPLETED"], logs(out, "")
    assert digests(out) == undisturbed
    for task in range(3):
        assert f"task {task}/3" in logs(out, f"shard-*_{task}")


def test_a_task_out_of_time_goes_on_and_those_killed_and_cancelled_are_named(cluster, photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    jobs = submit(cluster, photos, out)
    late, killed, cancelled = wait_for_shards(cluster, jobs, out)
    cluster.run("scancel", "--batch", "--signal=USR1", f"{jobs['shard']}_{late}")  # what SLURM sends before the limit
    python_of(out, killed).kill()
    cluster.run("scancel", f"{jobs['shard']}_{cancelled}")
    assert cluster.wait_for(jobs["finalize"]) == ["FAILED"]
    tasks = {task.number: task for task in cluster.tasks(jobs["shard"])}
    assert tasks[late] == (late, "COMPLETED", 1) and "to be queued again" in logs(out, f"shard-*_{late}")
    assert tasks[killed] == (killed, "FAILED", 0) and "killed, as it happens" in logs(out, f"shard-*_{killed}")
    assert tasks[cancelled] == (cancelled, "CANCELLED", 0) and "SIGTERM" in logs(out, f"shard-*_{cancelled}")
    assert "shards are missing: train/shard-0" in logs(out, "finalize")
    assert_only_whole_files(out, undisturbed)
    again = submit(cluster, photos, out)
    assert cluster.wait_for(again["finalize"]) == ["COMPLETED"], logs(out, "")
    assert digests(out) == undisturbed


def test_tasks_stream_what_the_first_array_left_and_wait_for_each_other(cluster, photos, tmp_path):
    """Of Parquet files with the images in them, which can only be streamed."""
    tables = tmp_path / "tables"
    tables.mkdir()
    for number in range(3):
        paths = sorted(photos.glob("*/*.jpg"))[number :: 5 * (number + 1)]  # some take longer than others
        columns = {"image": [path.read_bytes() for path in paths], "label": [len(path.name) % 2 for path in paths]}
        pq.write_table(pa.table(columns), tables / f"{number}.parquet")
    alone = vitstream("shard", tables, "--out", tmp_path / "alone", *OPTIONS)
    assert alone.returncode == 0, alone.stderr
    jobs = submit(cluster, tables, tmp_path / "data")
    cluster.run("scancel", jobs["stream"])
    assert cluster.wait_for(jobs["finalize"]) == ["COMPLETED"], logs(tmp_path / "data", "")
    assert digests(tmp_path / "data") == digests(tmp_path / "alone")
    assert "have not been streamed by the other tasks" in logs(tmp_path / "data", "shard")
    assert max(task.restarts for task in cluster.tasks(jobs["shard"])) >= 1


def test_a_node_that_dies_is_made_up_for_by_the_others(cluster, photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    jobs = submit(cluster, photos, out)
    wait_for_shards(cluster, jobs, out)
    cluster.kill_node("node2")
    assert_only_whole_files(out, undisturbed)
    cluster.start_node("node2")
    assert cluster.wait_for(jobs["finalize"], seconds=90) == ["COMPLETED"], logs(out, "")
    assert digests(out) == undisturbed
    assert sorted(task.restarts for task in cluster.tasks(jobs["shard"])) == [0, 0, 1]


def test_a_plan_that_fails_ends_the_chain(cluster, tmp_path):
    out = tmp_path / "data"
    jobs = submit(cluster, tmp_path / "nothing", out)
    assert cluster.wait_for(*jobs.values()) == ["FAILED", *["CANCELLED"] * 6, "FAILED"]
    assert "nothing" in logs(out, "plan") and "no planned dataset" in logs(out, "finalize")
    assert not out.exists() or not list(out.glob("**/*.json"))


def test_slurms_refusal_is_one_line_and_leaves_nothing_behind(cluster, photos, tmp_path):
    for option, value, reason in (("--partition", "nowhere", "partition"), ("--tasks", 900_000, "array")):
        arguments = ["--mem", "1G", option, value, "--", photos, "--out", tmp_path / "data"]
        done = vitstream("submit", "--prep", *arguments, **cluster.environment)
        assert done.returncode == 1 and done.stderr.startswith("vitstream: sbatch: "), done.stderr
        assert done.stderr.count("\n") == 1 and reason in done.stderr
    queued = cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%j")
    assert not queued.split() and not list(tmp_path.iterdir())


def test_the_output_says_what_to_watch(cluster, photos, tmp_path):
    arguments = ["--tasks", 2, "--mem", "1G", "--logs", "lo gs", "--", photos, "--out", "data", *OPTIONS]
    done = vitstream("submit", "--prep", *arguments, cwd=tmp_path, **cluster.environment)
    assert done.returncode == 0, done.stderr
    *jobs, watch, where = done.stdout.splitlines()
    ids = [line.split(" job ")[1].partition(",")[0] for line in jobs]
    cluster.run("scancel", *ids)
    assert [line.split()[0] for line in jobs] == ["plan", "stream", "shard", "finalize"] and "2 tasks" in jobs[1]
    assert watch == f"watch: squeue -j {','.join(ids)}" and where.endswith(str(tmp_path / "lo gs"))
    cluster.wait_for(*map(int, ids))
