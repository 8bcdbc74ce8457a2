"""A rank that stops without ending: it is named, what can be known of it is kept, and the same command goes on."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.run.beat import Beat, read_beats
from pipeline.run.metrics import read_lines
from tests.faults.test_kill_resume import runs, until_step
from tests.runs import start, steps_of, train, verdict_of, write_run

PATIENCE_S = 150.0
# As short as a busy machine of two cores allows: a healthy rank may not be silent for so long.
LIMITS = {"silent_s": 8, "least_s": 5, "first_s": 60, "setup_s": 120}


def beat_of(run: Path, rank: int) -> Beat:
    return read_beats(run.with_suffix("") / "attempts/000")[rank]


def ended(launcher: subprocess.Popen, run: Path, *words: str) -> dict:
    """The verdict on a run that has to end with exit code 1, one line and all of its processes."""
    family = psutil.Process(launcher.pid).children(recursive=True)
    _, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 1, err
    assert len(err.strip().splitlines()) == 1 and "the same command resumes" in err, err
    assert all(word in err for word in words), err
    deadline = time.monotonic() + 5.0
    while any(map(runs, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(runs, family)), "processes outlived the run"
    verdict = verdict_of(run, 0)
    assert verdict["resumable"] is True and verdict["message"] in err
    return verdict


def assert_goes_on(run: Path, undisturbed: dict[int, dict]) -> None:
    train(run, 2)
    steps = steps_of(run)
    for name in ("loss", "grad_norm", "batch_digest", "consumed"):
        assert [line[name] for line in steps.values()] == [line[name] for line in undisturbed.values()], name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped(data, undisturbed, tmp_path, rank):
    run = write_run(tmp_path / "run.yaml", *data, watchdog=LIMITS)
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 6), launcher.communicate()
    pid = beat_of(run, rank).pid
    psutil.Process(pid).suspend()
    verdict = ended(launcher, run, f"rank {rank} on", f"process {pid}", "no sign of life for 8 s", "kernel", "stacks")
    assert (verdict["cause"], verdict["rank"]) == ("hang", rank)
    assert verdict["phase"] in ("data", "step", "save") and verdict["step"] >= 1 and verdict["host"]
    attempt = tmp_path / "run/attempts/000"
    assert "State: T (stopped)" in (attempt / f"kernel/rank-{rank:05d}.txt").read_text()
    assert "train.py" in (attempt / f"stacks/rank-{1 - rank:05d}.txt").read_text(), "of who waits for it"
    if rank == 1:
        assert_goes_on(run, undisturbed)


def test_a_loader_that_is_stuck(data, undisturbed, tmp_path):
    """Its worker never answers, which no storage can do: that one gives up on."""
    paths = {"train": str(data[0]), "val": str(data[1])}
    run = write_run(tmp_path / "run.yaml", *data, watchdog=LIMITS, data=paths | {"retry_s": 0.5})
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 6), launcher.communicate()
    workers = psutil.Process(beat_of(run, 1).pid).children(recursive=True)
    for worker in workers:  # and the server that forks them
        worker.suspend()
    verdict = ended(launcher, run, "rank 1 on", "hangs in phase data after step")
    assert (verdict["cause"], verdict["rank"], verdict["phase"]) == ("hang", 1, "data")
    attempt = tmp_path / "run/attempts/000"
    assert "loader.py" in (attempt / "stacks/rank-00001.txt").read_text(), "where it waits"
    assert "agreement.py" in (attempt / "stacks/rank-00000.txt").read_text()
    assert_goes_on(run, undisturbed)


@pytest.mark.parametrize("how", ["stopped in the start", "never heard of"])
def test_in_the_start(data, tmp_path, how):
    limits = {"silent_s": 3, "first_s": 3, "setup_s": 4 if how == "never heard of" else 60}
    run = write_run(tmp_path / "run.yaml", *data, watchdog=limits)
    launcher = start("train", run, "--nproc", 2)
    beats = tmp_path / "run/attempts/000/beats"
    wait_for(lambda: (beats / "rank-00001.json").exists(), launcher)
    psutil.Process(beat_of(run, 1).pid).suspend()
    if how == "never heard of":  # and what it has said is gone
        (beats / "rank-00001.json").unlink()
    verdict = ended(launcher, run, "rank 1")
    assert (verdict["cause"], verdict["rank"], verdict["phase"]) == ("hang", 1, "setup")
    assert verdict["step"] is None


def wait_for(true: Callable[[], object], launcher: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_a_whole_run_that_is_stopped_for_a_while_goes_on(data, undisturbed, tmp_path):
    """Ctrl-Z in a terminal, or a cluster that suspends a job: nobody is late afterwards."""
    run = write_run(tmp_path / "run.yaml", *data, watchdog={"silent_s": 4, "least_s": 4, "first_s": 60})
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 6), launcher.communicate()
    family = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    time.sleep(9)
    for process in family:
        process.resume()
    out, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0, out + err
    assert [line["loss"] for line in steps_of(run).values()] == [line["loss"] for line in undisturbed.values()]


def test_a_rank_that_is_killed_is_named_with_what_it_did(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data)
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 6), launcher.communicate()
    time.sleep(0.5)
    said = beat_of(run, 1)
    psutil.Process(said.pid).send_signal(signal.SIGKILL)
    verdict = ended(launcher, run, "rank 1 on", "SIGKILL")
    assert (verdict["cause"], verdict["rank"]) == ("killed", 1)
    assert verdict["phase"] in ("data", "step", "save") and verdict["step"] >= said.step
    assert list(read_lines(tmp_path / "run/metrics.jsonl"))


def test_asked_for_its_stacks_a_rank_writes_them_and_goes_on(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data)
    launcher = start("train", run, "--nproc", 2)
    attempt = tmp_path / "run/attempts/000"
    wait_for(lambda: len(read_beats(attempt)) == 2, launcher)
    for rank in (0, 1):  # at once, while it imports torch
        psutil.Process(beat_of(run, rank).pid).send_signal(signal.SIGUSR2)
    assert until_step(launcher, run, 3), launcher.communicate()
    for process in psutil.Process(launcher.pid).children(recursive=True):  # as srun does it, their workers too
        process.send_signal(signal.SIGUSR2)
    out, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0, out + err
    for rank in (0, 1):
        assert "most recent call first" in (attempt / f"stacks/rank-{rank:05d}.txt").read_text()
