"""A full disk, diverging training, and what is kept: training goes on where it can, and never saves nonsense."""

import contextlib
import math
import os
import subprocess
import time

import pytest

from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from pipeline.run.metrics import read_lines
from tests.faults.test_kill_resume import until_step
from tests.runs import start, steps_of, train, verdict_of, vitstream, write_run


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB: a checkpoint of the tests' model takes about 1.3 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_does_not_stop_training_and_nothing_is_half_written(data, undisturbed, small_disk, tmp_path):
    long = {"epochs": 30, "checkpoint": {"every_steps": 5, "keep_last": 2}}
    run = write_run(tmp_path / "run.yaml", *data, run_dir=str(small_disk / "run"), **long)
    (tmp_path / "run").symlink_to(small_disk / "run")  # where the tests' helpers look
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 20)
    fill(small_disk)
    full_at = max(steps_of(run))
    time.sleep(3)
    (small_disk / "filler").unlink()
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, out + err
    assert "was not written" in out and "No space left" in out and "training goes on" in out
    steps = steps_of(run)
    assert list(steps) == list(range(1, 331)), "steps are missing from the metrics"
    assert max(steps) > full_at
    assert all(steps[s]["loss"] == line["loss"] for s, line in undisturbed.items() if s <= 5)
    checkpoints = run.with_suffix("") / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-00000325", "step-00000330"]
    for path in published(checkpoints):
        verify(path)
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert [c["epoch"] for c in certificates if c["exactly_once"]] == list(range(30))


def test_diverged_training_is_stopped_and_not_saved(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, optimizer={"lr": 1e30}, log_every=50, precision="bf16", epochs=40)
    done = vitstream("train", run, "--nproc", 2)
    assert done.returncode == 1
    assert "diverged" in done.stderr and "optimizer.lr" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not verdict_of(run, 0)["resumable"]
    for path in published(run.with_suffix("") / "checkpoints"):
        lines = [line for step, line in steps_of(run).items() if step <= verify(path).step]
        assert all(math.isfinite(float(line["loss"])) for line in lines)


def test_old_checkpoints_are_pruned(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, checkpoint={"every_steps": 4, "keep_last": 2})
    train(run, 1)
    names = [path.name for path in (run.with_suffix("") / "checkpoints").iterdir()]
    assert sorted(names) == ["step-00000032", "step-00000033"]


def test_a_sigmoid_loss_trains_from_its_head_bias(data, tmp_path):
    model = {"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 64, "heads": 2, "head_bias": -3.0}
    run = write_run(tmp_path / "run.yaml", *data, loss="sigmoid", model=model, label_smoothing=0.1)
    train(run, 2)
    first, *_, last = steps_of(run).values()
    target, logit = (0.1 / 5, 0.9 + 0.1 / 5), -3.0  # 4 classes of the first target, 1 of the second; a zero head
    expected = sum(n * (math.log1p(math.exp(logit)) - t * logit) for n, t in zip((4, 1), target, strict=True))
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert last["loss"] < first["loss"]
