"""Damaged checkpoints, two runs on one folder, ranks without our launcher, unreadable samples."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from pipeline.run.metrics import read_lines
from tests.datasets import make_dataset
from tests.faults.test_kill_resume import until_step
from tests.runs import one_line, start, steps_of, train, verdict_of, vitstream, write_run


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run with three checkpoints, to be copied and damaged."""
    run = write_run(tmp_path_factory.mktemp("finished") / "run.yaml", *data)
    train(run, 2)
    return run


@pytest.fixture
def copy(finished, data, tmp_path):
    shutil.copytree(finished.with_suffix(""), tmp_path / "run")
    return write_run(tmp_path / "run.yaml", *data)


def checkpoints(run):
    return sorted((run.with_suffix("") / "checkpoints").iterdir())


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": flip_a_bit,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["rank-00001.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(copy, undisturbed, damage, file):
    newest, before = checkpoints(copy)[-1], checkpoints(copy)[-2]
    DAMAGES[damage](newest / file)
    done = train(copy, 2)
    assert f"{newest.name} is damaged" in done.stdout and str(newest / file) in done.stdout
    assert f"from {before.name}, which verifies" in done.stdout
    names = [path.name for path in checkpoints(copy)]
    assert f"{newest.name}.damaged-001" in names and newest.name in names
    assert [s["loss"] for s in steps_of(copy).values()] == [s["loss"] for s in undisturbed.values()]


def test_no_good_checkpoint_means_no_silent_start_from_scratch(copy):
    for path in checkpoints(copy):
        flip_a_bit(path / "rank-00000.safetensors")
    for _ in range(2):  # the second time they have been set aside already
        one_line(vitstream("train", copy), "none verifies", "--from-scratch")
    done = train(copy, 1, "--from-scratch", "--set", "epochs=1", "--set", "model.depth=1", "--set", "seed=7")
    assert "from step 0" in done.stdout
    assert list(steps_of(copy)) == list(range(1, 12)), "the metrics of what was before are still there"
    aside = [path for path in copy.with_suffix("").iterdir() if path.name.startswith("before-")]
    assert len(aside) == 1 and {"config.yaml", "metrics.jsonl"} < {path.name for path in aside[0].iterdir()}
    assert len(list((aside[0] / "checkpoints").iterdir())) == 3


def test_checkpoints_that_have_gone_are_missed(copy):
    shutil.rmtree(copy.with_suffix("") / "checkpoints")  # as where a disk is not mounted
    for _ in range(2):  # the first start has made the folder
        one_line(vitstream("train", copy), "step-00000033 was published here", "--from-scratch")
    train(copy, 1, "--from-scratch", "--set", "epochs=1")
    assert "finished" in train(copy, 1, "--set", "epochs=1").stdout


def test_a_damaged_checkpoint_of_a_finished_run_is_noticed(copy):
    flip_a_bit(checkpoints(copy)[-1] / "rank-00000.safetensors")
    assert "is damaged" in train(copy, 2).stdout


def test_two_runs_on_one_folder(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, epochs=1000)
    first = start("train", run)
    assert until_step(first, run, 2)
    one_line(vitstream("train", run), "in use by process", str(first.pid))
    assert first.poll() is None
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 3


def test_odd_run_folders_and_a_closed_terminal(data, tmp_path):
    """Spaces, accents and what a URL would escape; and a reader of the output that goes away, as `| head -1` does."""
    run = write_run(tmp_path / "run.yaml", *data, run_dir=str(tmp_path / "a b é#%20x"), steps=3, epochs=None)
    launcher = start("train", run, "--nproc", 2)
    assert "attempt 0" in launcher.stdout.readline()
    launcher.stdout.close()
    assert launcher.wait(timeout=60) == 0
    assert launcher.stderr.read() == ""
    assert "finished" in (tmp_path / "a b é#%20x" / "attempts" / "000" / "rank-0.log").read_text()


def test_what_was_tried_before_the_first_checkpoint_does_not_bind(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, checkpoint={"every_steps": 1000})
    first = start("train", run)
    assert until_step(first, run, 2)
    first.kill()
    first.communicate()
    other = ("--set", "seed=7", "--set", "model.depth=1", "--set", "epochs=null")
    train(run, 1, *other, "--set", "steps=4")
    train(run, 1, *other, "--set", "steps=6")
    one_line(vitstream("train", run), "model.depth", "1", "2")


def test_a_label_that_tar_and_index_disagree_on_is_a_hole(data, tmp_path):
    from pipeline.dataset.index import ShardIndex, write_index

    damaged = tmp_path / "damaged"
    shutil.copytree(data[0], damaged)
    path = damaged / "shards" / "shard-000000.arrow"
    rows = [ShardIndex(path).row(n) for n in range(len(ShardIndex(path)))]
    rows[3] = rows[3]._replace(labels=((rows[3].labels[0] + 1) % 5,))
    write_index(path, rows)
    run = write_run(tmp_path / "run.yaml", damaged, epochs=1)
    train(run, 2, "--set", "data.max_hole_rate=0.01")
    (hole,) = read_lines(run.with_suffix("") / "holes.jsonl")
    assert hole["key"] == rows[3].key and "label" in hole["cause"]


@pytest.mark.parametrize("damage", ["flipped", "short", "few classes"])
def test_an_unusable_dataset_ends_in_one_line(data, tmp_path, damage):
    from pipeline.dataset.index import ShardIndex, write_index

    damaged = tmp_path / "damaged"
    shutil.copytree(data[0], damaged)
    path = damaged / "shards" / "shard-000000.arrow"
    if damage == "flipped":
        content = bytearray(path.read_bytes())
        content[content.index(ShardIndex(path).row(0).key.encode())] = 0xFF  # no longer UTF-8
        path.write_bytes(content)
    elif damage == "short":
        write_index(path, [ShardIndex(path).row(n) for n in range(len(ShardIndex(path)) - 1)])
    else:
        body = json.loads((damaged / "dataset.json").read_text())
        (damaged / "dataset.json").write_text(json.dumps(body | {"classes": body["classes"][:3]}))
    run = write_run(tmp_path / "run.yaml", damaged, epochs=1)
    done = vitstream("train", run, "--nproc", 2)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "vitstream verify" in done.stderr and "shard-0000" in done.stderr
    assert (verdict_of(run, 0)["cause"], verdict_of(run, 0)["resumable"]) == ("data", False)


def test_torchrun_starts_the_ranks_too(data, undisturbed, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "pipeline.cli", "train", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    digests = [line["batch_digest"] for line in steps_of(run).values()]
    assert digests == [line["batch_digest"] for line in undisturbed.values()]
    assert verdict_of(run, 0)["cause"] == "finished"


def test_unreadable_samples_are_holes_and_move_nothing(data, undisturbed, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(data[0], damaged)
    from pipeline.dataset.index import ShardIndex

    row = ShardIndex(damaged / "shards" / "shard-000001.arrow").row(7)
    with (damaged / "shards" / "shard-000001.tar").open("rb+") as file:
        file.seek(row.offset)
        file.write(b"not an image")
    run = write_run(tmp_path / "run.yaml", damaged, data[1])
    done = train(run, 2, "--set", "data.max_hole_rate=0.01")
    holes = list(read_lines(run.with_suffix("") / "holes.jsonl"))
    assert [(h["key"], h["epoch"], h["shard"], h["offset"]) for h in holes] == [
        (row.key, epoch, "shard-000001.tar", row.offset) for epoch in range(3)
    ]
    assert all(h["cause"] for h in holes)
    assert done.stdout.count("hole: shard-000001.tar: ") == 1 and done.stdout.count("1 could not be read") == 3
    differ = [s for s, line in steps_of(run).items() if line["batch_digest"] != undisturbed[s]["batch_digest"]]
    assert differ == [h["step"] for h in holes]
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert [(c["samples"], c["holes"], c["exactly_once"]) for c in certificates] == [(351, 1, True)] * 3


def test_too_many_holes_stop_the_run_and_name_the_file(data, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(data[0], damaged)
    (damaged / "shards" / "shard-000001.tar").unlink()
    run = write_run(tmp_path / "run.yaml", damaged, data[1])
    done = vitstream("train", run, "--nproc", 2)
    assert done.returncode == 1
    one_line(done, "data.max_hole_rate", "holes.jsonl", "shard-000001.tar: cannot read: No such file", code=1)
    verdict = verdict_of(run, 0)
    assert (verdict["cause"], verdict["resumable"]) == ("data", True) and verdict["save_s"] > 0
    (saved,) = checkpoints(run)
    assert saved.name == f"step-{verdict['step']:08d}"
    (damaged / "shards" / "shard-000001.tar").symlink_to(data[0] / "shards" / "shard-000001.tar")  # mended
    train(run, 2)
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert [c["exactly_once"] for c in certificates] == [True] * 3
    assert certificates[0]["holes"] > 0 and certificates[2]["holes"] == 0


def test_a_dataset_that_changed_is_refused(copy, tmp_path):
    make_dataset(tmp_path / "other", 352, seed=5)
    one_line(vitstream("train", copy, "--set", f"data.train={tmp_path / 'other'}"), "fingerprint", "data.train")


def test_a_torn_metrics_line_is_cut(copy):
    metrics = copy.with_suffix("") / "metrics.jsonl"
    shutil.rmtree(checkpoints(copy)[-1])
    with metrics.open("a") as file:
        file.write('{"step": 34, "lo')
    train(copy, 2)
    assert all(json.loads(line) for line in metrics.read_text().splitlines())


def test_evaluation_counts_each_sample_once_on_any_number_of_ranks(data, tmp_path):
    accuracy = {}
    for nproc in (1, 2, 3):
        run = write_run(tmp_path / f"run{nproc}.yaml", *data, steps=2, epochs=None)
        train(run, nproc)
        (line,) = [x for x in read_lines(run.with_suffix("") / "metrics.jsonl") if "eval" in x]
        assert line["samples"] == 101
        accuracy[nproc] = line["accuracy"]
    assert len(set(accuracy.values())) == 1


def test_rank_0_alone_speaks_logs_are_kept_and_nothing_is_compiled(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))  # where torch and DeepSpeed build ops
    run = write_run(tmp_path / "run.yaml", *data, steps=2, epochs=None)
    done = vitstream("train", run, "--nproc", 2)
    attempt = run.with_suffix("") / "attempts" / "000"
    assert len(re.findall("checkpoint step-00000002 published", done.stdout)) == 1
    assert (attempt / "rank-1.log").read_text() == ""
    assert "published" in (attempt / "rank-0.log").read_text()
    assert done.stderr == ""
    assert not list((tmp_path / "extensions").rglob("*"))
