"""kill -9 at random moments, then the same command: nothing is lost, repeated or different."""

import json
import os
import random
import shutil
import signal
import time

import psutil
import pytest

from pipeline.dataset.keys import key_sum
from pipeline.run.metrics import read_lines
from tests.runs import start, steps_of, train, verdict_of, vitstream, write_run


def until_step(process, run, step: int) -> bool:
    """Waits until `step` is in the metrics. False if the run ended first."""
    metrics = run.with_suffix("") / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and max(steps_of(run), default=0) >= step:
            return True
        time.sleep(0.01)
    return False


def ranks_of(launcher) -> list[psutil.Process]:
    return psutil.Process(launcher.pid).children()


def runs(process: psutil.Process) -> bool:
    """False for the dead, and for zombies that an init process has yet to collect."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_at_random(run, nproc: int, chance: random.Random) -> str:
    """Trains until a random moment, then SIGKILLs the launcher or one of the ranks. Returns which."""
    launcher = start("train", run, "--nproc", nproc)
    before = max(steps_of(run), default=0) if (run.with_suffix("") / "metrics.jsonl").exists() else 0
    assert until_step(launcher, run, before + chance.randint(1, 20)), launcher.communicate()
    time.sleep(chance.uniform(0, 0.2))
    victim = chance.choice(["launcher", *range(nproc)])
    ranks, family = ranks_of(launcher), psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) >= 3 * nproc, "each rank has a fork server and a loader worker"
    (psutil.Process(launcher.pid) if victim == "launcher" else ranks[victim]).kill()
    launcher.communicate(timeout=60)
    deadline = time.monotonic() + 5.0  # generous for a busy machine; the kernel needs milliseconds
    while any(map(runs, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(runs, family)), "ranks or their workers outlived the launcher"
    assert launcher.returncode == (-signal.SIGKILL if victim == "launcher" else 1)
    return str(victim)


@pytest.mark.parametrize("seed", [2611])
def test_three_kills_leave_no_trace_at_the_same_world_size(data, tmp_path, seed):
    long = {"epochs": 11, "evaluate": {"every_steps": 30, "crop": 1.0}}  # too long to end before the third kill
    whole, run = (write_run(tmp_path / f"{name}.yaml", *data, **long) for name in ("whole", "killed"))
    train(whole, 2)
    undisturbed = steps_of(whole)
    chance = random.Random(seed)
    victims = [kill_at_random(run, 2, chance) for _ in range(3)]
    train(run, 2)
    steps = steps_of(run)
    assert len({line["attempt"] for line in steps.values()}) > 2, victims
    assert steps.keys() == undisturbed.keys()
    for step, line in undisturbed.items():
        for field in ("batch_digest", "loss", "grad_norm", "lr", "consumed", "epoch"):
            assert steps[step][field] == line[field], (step, field, victims)
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert {c["epoch"] for c in certificates if c["exactly_once"]} == set(range(long["epochs"]))
    causes = [verdict_of(run, attempt)["cause"] for attempt in range(4)]
    assert causes == ["killed"] * 3 + ["finished"]


def test_other_world_sizes_read_the_same_batches(data, undisturbed, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data)
    for nproc, kills in ((1, 12), (3, 22)):
        launcher = start("train", run, "--nproc", nproc)
        assert until_step(launcher, run, kills)
        launcher.kill()
        launcher.communicate()
    train(run, 2)
    steps = steps_of(run)
    assert {line["world_size"] for line in steps.values()} == {1, 2, 3}
    for step, line in undisturbed.items():
        assert steps[step]["batch_digest"] == line["batch_digest"]
        assert steps[step]["loss"] == pytest.approx(line["loss"], rel=1e-4)


@pytest.mark.parametrize(("zero", "precision"), [("zero2", "bf16"), ("zero3", "bf16"), ("zero0", "fp32")])
def test_resume_is_exact_for_other_stages_and_precisions(data, tmp_path, zero, precision):
    extra = {"zero": zero, "precision": precision, "steps": 12, "epochs": None}
    extra["regularization"] = {"dropout": 0.1, "drop_path": 0.1}
    whole = write_run(tmp_path / "whole.yaml", *data, **extra)
    broken = write_run(tmp_path / "broken.yaml", *data, **extra)
    train(whole, 2)
    launcher = start("train", broken, "--nproc", 2)
    assert until_step(launcher, broken, 7)
    launcher.kill()
    launcher.communicate()
    train(broken, 2)
    steps = steps_of(broken)
    assert {line["attempt"] for line in steps.values()} == {0, 1}
    assert [(s["loss"], s["batch_digest"]) for s in steps.values()] == [
        (s["loss"], s["batch_digest"]) for s in steps_of(whole).values()
    ]


def test_sigterm_saves_and_ends_with_3_and_the_same_command_resumes(data, undisturbed, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, checkpoint={"every_steps": 1000})
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 4)
    launcher.terminate()
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 3, out + err
    assert len(err.strip().splitlines()) == 1 and "SIGTERM" in err and "resumes" in err
    verdict = verdict_of(run, 0)
    assert (verdict["cause"], verdict["resumable"]) == ("signal", True)
    stopped_at = max(steps_of(run))
    train(run, 2)
    steps = steps_of(run)
    assert [s["loss"] for s in steps.values()] == [s["loss"] for s in undisturbed.values()]
    assert min(s for s, line in steps.items() if line["attempt"] == 1) == stopped_at + 1, "a saved step was lost"


def test_a_signal_to_every_process_at_once_saves_too(data, tmp_path):
    """As schedulers do it: launcher, ranks and their loader workers all get SIGTERM, twice."""
    run = write_run(tmp_path / "run.yaml", *data, epochs=40, checkpoint={"every_steps": 1000})
    launcher = start("train", run, "--nproc", 2, start_new_session=True)
    assert until_step(launcher, run, 4)
    os.killpg(launcher.pid, signal.SIGTERM)
    os.killpg(launcher.pid, signal.SIGTERM)
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 3, out + err
    assert len(list((run.with_suffix("") / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("signum", ["SIGINT", "SIGUSR1", "SIGHUP"])
def test_other_signals_save_too(data, tmp_path, signum):
    run = write_run(tmp_path / "run.yaml", *data, epochs=40, checkpoint={"every_steps": 1000})
    launcher = start("train", run)
    assert until_step(launcher, run, 4)
    launcher.send_signal(getattr(signal, signum))
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 3, out + err
    verdict = verdict_of(run, 0)
    assert (verdict["cause"], verdict["resumable"]) == ("signal", True)
    (saved,) = (run.with_suffix("") / "checkpoints").iterdir()
    assert saved.name == f"step-{verdict['step']:08d}" and verdict["step"] <= 34


def test_with_steps_a_changed_batch_size_leaves_the_number_of_steps(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, steps=4, epochs=None)
    train(run, 2)
    train(run, 1, "--set", "steps=8", "--set", "batch_size=16")
    train(run, 2, "--set", "steps=10", "--set", "batch_size=48")
    steps = steps_of(run)
    assert list(steps) == list(range(1, 11))
    assert steps[10]["consumed"] == 4 * 32 + 4 * 16 + 2 * 48


def test_batch_size_may_change_on_the_way_and_every_epoch_still_holds(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, checkpoint={"every_steps": 2})
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 6)
    launcher.kill()
    launcher.communicate()
    train(run, 2, "--set", "batch_size=24")
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert {c["epoch"] for c in certificates if c["exactly_once"]} == {0, 1, 2}
    steps = steps_of(run)
    assert steps[max(steps)]["consumed"] == 3 * 352
    asked = ("order", run, "--set", "batch_size=24", "--json")
    for step in (2, max(steps) - 1, max(steps)):  # the order that the run keeps answers for both batch sizes
        keys = json.loads(vitstream(*asked, "--step", step).stdout)["keys"]
        assert f"{key_sum(keys):016x}" == steps[step]["batch_digest"]
    place = json.loads(vitstream(*asked, "--key", keys[-1], "--epoch", 2).stdout)
    assert (place["step"], place["slot"]) == (step, len(keys) - 1)


def test_a_run_folder_may_be_moved(data, undisturbed, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data)
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 12)
    launcher.kill()
    launcher.communicate()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    moved = write_run(tmp_path / "elsewhere.yaml", *data)
    train(moved, 2)
    steps = steps_of(moved)
    assert [s["loss"] for s in steps.values()] == [s["loss"] for s in undisturbed.values()]
    again = vitstream("train", moved, "--nproc", 2)
    assert again.returncode == 0 and "finished" in again.stdout
