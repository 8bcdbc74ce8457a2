"""What steps are said to take: it adds up to the time that has passed, and the host that all wait for is named."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from threading import Thread

import pytest

from pipeline.run.directory import RunDirectory
from pipeline.run.measured import measured
from pipeline.run.metrics import read_lines
from pipeline.run.slow_host import STREAK, SlowHosts, slow_host
from tests.datasets import make_dataset
from tests.runs import start, steps_of, train, verdict_of, write_run

PARTS = ("data_s", "forward_s", "backward_s", "reduce_s", "optimizer_s")


def test_parts_add_up_to_steps_and_steps_to_the_clock(tmp_path: Path) -> None:
    """On real ranks, with accumulation, evaluations and saves; from the metrics alone."""
    make_dataset(tmp_path / "train", 352)
    make_dataset(tmp_path / "val", 50)
    more = {"evaluate": {"every_steps": 4, "crop": 1.0}, "log_every": 3, "epochs": None, "steps": 14}
    run = write_run(tmp_path / "run.yaml", tmp_path / "train", tmp_path / "val", **more)
    train(run, 2)
    lines = list(steps_of(run).values())
    for line in lines:
        assert all(line[part] > 0 for part in PARTS), line
        assert sum(line[part] for part in PARTS) == pytest.approx(line["step_s"], abs=5e-6)
        assert line["images_per_s"] == pytest.approx(32 / line["step_s"], rel=1e-3)
    assert [line["step"] for line in lines if "evaluate_s" in line] == [5, 9, 13]
    assert [line["step"] for line in lines if "save_s" in line] == [6, 11]
    passed = lines[-1]["time"] - lines[0]["time"]  # of another clock
    stalls = sum(line.get("evaluate_s", 0) + line.get("save_s", 0) for line in lines[1:])
    assert sum(line["step_s"] for line in lines[1:]) + stalls == pytest.approx(passed, rel=0.02)
    after = verdict_of(run, 0)
    since = (tmp_path / "run/attempts/000/verdict.json").stat().st_mtime - lines[-1]["time"]
    assert min(after["evaluate_s"], after["save_s"]) > 0 and after["evaluate_s"] + after["save_s"] < since
    ends = [line for line in lines if "host_memory_bytes" in line]
    assert [line["step"] for line in ends] == [3, 4, 5, 6, 8, 9, 10, 12, 14], "the last line of each flush"
    assert all(10**8 < line["host_memory_bytes"] < 10**10 and line["device_memory_bytes"] is None for line in ends)
    assert not any("hosts" in line for line in lines), "there is one"


def test_a_host_that_is_slowed_down_is_named(tmp_path: Path) -> None:
    """Two real ranks that SLURM would have started on two nodes; one is stopped most of the time."""
    make_dataset(tmp_path / "train", 352)
    more = {"log_every": 4, "epochs": 1000, "checkpoint": {"every_steps": 10_000}, "loader": {"workers": 0}}
    run = write_run(tmp_path / "run.yaml", tmp_path / "train", **more)
    fast, slow = ranks_on(run, "node-fast", "node-slow")
    stop = Thread(target=stop_most_of_the_time, args=(slow, tmp_path / "run" / "metrics.jsonl"))
    stop.start()
    said = []
    for line in fast.stdout or ():
        said.append(line)
        if " is slow: " in line:
            break
    for rank in (fast, slow):
        rank.kill()
        rank.communicate()
    stop.join()
    assert "host node-slow is slow: " in said[-1] and " times the other host" in said[-1], said
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "hosts" in line]
    assert all(line["hosts"].keys() == {"node-fast", "node-slow"} for line in lines)


def ranks_on(run: Path, *nodes: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ours = os.environ | {"WORLD_SIZE": str(len(nodes)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ours |= {"GLOO_SOCKET_IFNAME": "lo"}
    return [
        start("train", run, env=ours | {"RANK": str(rank), "LOCAL_RANK": str(rank), "SLURMD_NODENAME": node})
        for rank, node in enumerate(nodes)
    ]


def stop_most_of_the_time(rank: subprocess.Popen, metrics: Path) -> None:
    """Once it trains, and until it ends."""
    while rank.poll() is None:
        if metrics.exists() and metrics.stat().st_size:
            rank.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            rank.send_signal(signal.SIGCONT)
        time.sleep(0.02)


def flush(**seconds: float) -> dict:
    return {"hosts": seconds, "step_s": 1.0}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("flushes", "host"),
    [
        ([flush(a=0.3, b=0.3, c=0.42)] * STREAK, "c"),
        ([flush(a=0.3, b=0.3, c=0.42)] * (STREAK - 1), None),
        ([flush(a=0.3, b=0.3, c=0.36)] * STREAK, None),
        ([flush(a=0.02, b=0.02, c=0.06)] * STREAK, None),  # next to nothing of a step
        ([flush(a=0.3, b=0.42), flush(a=0.42, b=0.3)] * STREAK, None),  # now this one, now that one
        ([flush(a=0.3, c=0.42), flush(a=0.3, c=0.3), *[flush(a=0.3, c=0.42)] * 2], None),
        ([flush(a=0.0, b=0.2)] * STREAK, "b"),
        ([flush(a=0.3)] * STREAK, None),
        ([{"step_s": 1.0}] * 9, None),
    ],
)
def test_who_is_slow(flushes: list[dict], host: str | None) -> None:
    found = slow_host(flushes)
    assert (found and found.host) == host


@pytest.mark.fast
def test_status_knows_it_from_the_metrics(tmp_path: Path) -> None:
    same = {"images_per_s": 64.0, "data_wait_s": 0.1, "attempt": 0, "world_size": 3}
    lines = [{"step": step, **flush(a=0.3, b=0.3, c=0.42), **same} for step in range(1, STREAK + 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = measured(RunDirectory(tmp_path)).slow_host
    assert found and (found.host, found.own_s, found.median_s, found.others) == ("c", 0.42, 0.3, 2)


@pytest.mark.fast
def test_it_is_said_seldom() -> None:
    hosts = SlowHosts()
    said = [hosts.see(flush(a=0.3, b=0.3, c=0.42)) for _ in range(100)]
    assert [number for number, each in enumerate(said) if each] == [2, 52]
    assert str(said[2]) == (
        "host c is slow: its data and forward take 0.420 s of a step, 1.4 times the median of the other 2 hosts"
    )
