"""A full disk, diverging training, and what is kept: training goes on where it can, and never saves nonsense."""

import contextlib
import math
import os
import shutil
import subprocess
import time

import pytest

from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from pipeline.run.metrics import read_lines
from tests.faults.test_kill_resume import until_step
from tests.runs import one_line, start, steps_of, train, verdict_of, vitstream, write_run


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
    long = {"epochs": 12, "checkpoint": {"every_steps": 5, "keep_last": 2}}
    run = write_run(tmp_path / "run.yaml", *data, run_dir=str(small_disk / "run"), **long)
    (tmp_path / "run").symlink_to(small_disk / "run")  # where the tests' helpers look
    said = tmp_path / "said"  # on another disk
    with said.open("w") as file:
        launcher = start("train", run, "--nproc", 2, stdout=file)
    assert until_step(launcher, run, 20)
    fill(small_disk)
    full_at = max(steps_of(run))
    until_said(said, "was not written", launcher)
    (small_disk / "filler").unlink()
    _, err = launcher.communicate(timeout=120)
    out = said.read_text()
    assert launcher.returncode == 0, out + err
    assert "was not written" in out and "No space left" in out and "training goes on" in out
    steps = steps_of(run)
    assert list(steps) == list(range(1, 133)), "steps are missing from the metrics"
    assert max(steps) > full_at
    assert all(steps[s]["loss"] == line["loss"] for s, line in undisturbed.items() if s <= 5)
    checkpoints = run.with_suffix("") / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-00000130", "step-00000132"]
    for path in published(checkpoints):
        verify(path)
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert [c["epoch"] for c in certificates if c["exactly_once"]] == list(range(12))


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def until_said(log, words, launcher):
    """Waits until this file has these words in it."""
    while launcher.poll() is None and words not in log.read_text():
        time.sleep(0.01)


def test_a_file_system_that_becomes_read_only_does_not_stop_training(data, small_disk, tmp_path):
    """Only the checkpoints lie there: a disk with open files cannot be made read-only."""
    run = write_run(tmp_path / "run.yaml", *data, epochs=12, checkpoint={"every_steps": 5, "keep_last": 2})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(small_disk)
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 12)
    while launcher.poll() is None:
        try:
            remount(small_disk, "ro")
            break
        except subprocess.CalledProcessError:  # a checkpoint is being written at this moment
            time.sleep(0.05)
    until_said(tmp_path / "run/attempts/000/rank-0.log", "Read-only file system", launcher)
    before = {path.name for path in published(small_disk)}
    time.sleep(0.5)
    assert {path.name for path in published(small_disk)} == before
    for path in published(small_disk):
        verify(path)
    remount(small_disk, "rw")
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, out + err
    assert "was not written" in out and "training goes on, the newest checkpoint is step-" in out
    assert sorted(path.name for path in small_disk.iterdir()) == ["step-00000130", "step-00000132"]
    assert list(steps_of(run)) == list(range(1, 133))


def test_checkpoints_that_vanish_are_missed_and_made_anew(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, epochs=10, checkpoint={"every_steps": 5, "keep_last": 2})
    checkpoints = tmp_path / "run" / "checkpoints"
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 12)
    gone = tmp_path / "gone"
    checkpoints.rename(gone)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, out + err
    assert "the checkpoint before it, is gone: somebody has removed it" in out
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000105", "step-00000110"]
    for path in [*published(checkpoints), *published(gone)]:
        verify(path)


def test_a_disk_that_stays_full_ends_the_run_with_1_and_keeps_what_there_is(data, small_disk, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, epochs=10, checkpoint={"every_steps": 5, "keep_last": 2})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(small_disk)
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 12)
    fill(small_disk)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, out + err
    assert len(err.strip().splitlines()) == 1 and "step-00000110 was not written" in err and "No space left" in err
    (small_disk / "filler").unlink()
    assert 0 < len(published(small_disk)) <= 3
    for path in published(small_disk):
        verify(path)
    assert "finished" in train(run, 2).stdout


def test_a_run_whose_whole_disk_stays_full_ends_in_lines(data, small_disk, tmp_path):
    """Neither a checkpoint nor a verdict can be written then, nor can a new attempt begin."""
    run = write_run(tmp_path / "run.yaml", *data, run_dir=str(small_disk / "run"), epochs=10)
    (tmp_path / "run").symlink_to(small_disk / "run")
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 12)
    fill(small_disk)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, out + err
    assert "Traceback" not in out + err and all(line.startswith("vitstream: ") for line in err.splitlines()), err
    assert "step-00000110 was not written" in err and "No space left" in err.splitlines()[-1], err
    fill(small_disk)
    one_line(vitstream("train", run, "--nproc", 2), "run_dir: cannot write to", "No space left", code=1)
    (small_disk / "filler").unlink()
    assert "finished" in train(run, 2).stdout


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


def test_what_a_user_keeps_stays_and_copies_are_whole(data, tmp_path):
    keep = {"every_steps": 4, "keep_last": 1, "keep_every": 16, "copy_to": str(tmp_path / "copies")}
    run = write_run(tmp_path / "run.yaml", *data, checkpoint=keep)
    train(run, 2, "--set", "steps=8", "--set", "epochs=null")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-00000008" / "keep").touch()
    shutil.rmtree(tmp_path / "copies" / "step-00000008")  # as if the attempt had not come to it
    assert "checkpoint step-00000008 copied to" in train(run, 2).stdout
    assert [path.name for path in published(checkpoints)] == [f"step-000000{n}" for n in ("08", "16", "32", "33")]
    copies = published(tmp_path / "copies")
    assert {"step-00000004", "step-00000008", "step-00000033"} <= {path.name for path in copies}
    for path in copies:
        verify(path)
    shutil.rmtree(checkpoints)
    shutil.copytree(tmp_path / "copies", checkpoints)
    assert "all 33 steps are done, and the checkpoint verifies" in train(run, 1).stdout


def test_without_a_snapshot_training_waits_and_ends_the_same(data, undisturbed, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, checkpoint={"every_steps": 5, "asynchronous": False})
    out = train(run, 2).stdout
    assert "published in" in out and "training waited" not in out
    assert [s["loss"] for s in steps_of(run).values()] == [s["loss"] for s in undisturbed.values()]


def test_a_sigmoid_loss_trains_from_its_head_bias(data, tmp_path):
    model = {"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 64, "heads": 2, "head_bias": -3.0}
    run = write_run(tmp_path / "run.yaml", *data, loss="sigmoid", model=model, label_smoothing=0.1)
    train(run, 2)
    first, *_, last = steps_of(run).values()
    target, logit = (0.1 / 5, 0.9 + 0.1 / 5), -3.0  # 4 classes of the first target, 1 of the second; a zero head
    expected = sum(n * (math.log1p(math.exp(logit)) - t * logit) for n, t in zip((4, 1), target, strict=True))
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert last["loss"] < first["loss"]
