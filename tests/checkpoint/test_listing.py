"""`vitstream checkpoint ls`, `verify` and `keep`, on a login node too."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.checkpoint.made import make_checkpoint, scrambled, small_config
from tests.runs import one_line, vitstream


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with three checkpoints and an unfinished one."""
    config = small_config(tmp_path_factory.mktemp("listing") / "run")
    model = scrambled(config)
    for step in (10, 20, 30):
        make_checkpoint(config, model, step, world_size=2, losses=[1 / step])
    unfinished = config.run_dir / "checkpoints" / "step-00000040.tmp-001"
    unfinished.mkdir()
    (unfinished / "rank-00000.safetensors").write_bytes(b"half")
    lines = [
        {"step": 20, "epoch": 1, "loss": 9.0, "attempt": 0},
        {"eval": "val", "step": 20, "accuracy": 0.1, "loss": 3.0, "samples": 7},
        {"step": 20, "epoch": 2, "loss": 1.5, "attempt": 1},  # done again: the last line counts
        {"eval": "val", "step": 20, "accuracy": 0.25, "loss": 2.0, "samples": 7},
        {"step": 25, "epoch": 2, "loss": 1.0, "attempt": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (config.run_dir / "metrics.jsonl").write_text(text + '{"step": 30, "lo')  # torn by a kill
    return config.run_dir


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def listed(run):
    done = vitstream("checkpoint", "ls", run, "--json")
    assert done.returncode == 0, done.stderr
    return {entry["name"]: entry for entry in json.loads(done.stdout)["checkpoints"]}


def test_ls_tells_what_there_is(run):
    entries = listed(run)
    assert [(e["step"], e["state"]) for e in entries.values()] == [
        (10, "complete"),
        (20, "complete"),
        (30, "complete"),
        (40, "unfinished"),
    ]
    twenty = entries["step-00000020"]
    measured = {key: twenty[key] for key in ("epoch", "loss", "accuracy", "world_size", "zero_stage", "consumed")}
    assert measured == {
        "epoch": 2,
        "loss": 1.5,
        "accuracy": 0.25,
        "world_size": 2,
        "zero_stage": 1,
        "consumed": 640,
    }
    assert entries["step-00000030"]["loss"] == pytest.approx(1 / 30), "from the manifest, where the metrics have none"
    size = sum(path.stat().st_size for path in (run / "checkpoints" / "step-00000020").iterdir())
    assert twenty["bytes"] == size
    table = vitstream("checkpoint", "ls", run).stdout.splitlines()
    assert len(table) == 5 and "1.5000" in table[2] and "25.00%" in table[2] and "unfinished" in table[4]


def test_ls_names_what_is_damaged_without_reading_it_all(run):
    folder = run / "checkpoints"
    (folder / "step-00000010" / "rank-00000.safetensors").unlink()
    (folder / "step-00000020").rename(folder / "step-00000020.damaged-003")
    with (folder / "step-00000030" / "manifest.json").open("ab") as file:
        file.write(b" ")
    entries = listed(run)
    assert [e["state"] for e in entries.values()] == ["damaged"] * 3 + ["unfinished"]
    assert "rank-00000.safetensors is missing" in entries["step-00000010"]["problem"]
    assert "not byte for byte" in entries["step-00000030"]["problem"]


def test_an_evaluation_of_a_step_that_was_done_again_is_not_of_its_checkpoint(run):
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines[:4], lines[2], lines[4]]))
    (run / "checkpoints" / "step-00000050").write_text("not a folder")
    entries = listed(run)
    assert entries["step-00000020"]["accuracy"] is None and entries["step-00000020"]["loss"] == 1.5
    assert (entries["step-00000050"]["state"], entries["step-00000050"]["problem"]) == ("damaged", "is not a folder")


def test_keep_and_release(run):
    step = run / "checkpoints" / "step-00000010"
    assert vitstream("checkpoint", "keep", step).stdout == "step-00000010 is kept\n"
    assert (step / "keep").is_file()
    assert [entry["kept"] for entry in listed(run).values()] == [True, False, False, False]
    assert vitstream("checkpoint", "verify", step).returncode == 0, "it is not part of the checkpoint"
    assert vitstream("checkpoint", "keep", step, "--release").returncode == 0
    assert not (step / "keep").exists()
    one_line(vitstream("checkpoint", "keep", run / "checkpoints" / "step-00000040.tmp-001"), "manifest.json", "missing")


def test_verify_reads_every_byte(run):
    done = vitstream("checkpoint", "verify", run)
    assert done.returncode == 0 and done.stdout.count("verifies") == 3
    path = run / "checkpoints" / "step-00000020" / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = vitstream("checkpoint", "verify", run, "--json")
    one_line(done, "1 of 3 checkpoints do not verify: step-00000020", code=1)
    found = {each["name"]: each for each in json.loads(done.stdout)["checkpoints"]}
    assert [each["verifies"] for each in found.values()] == [True, False, True]
    damage = found["step-00000020"]["damage"]
    assert damage.startswith(f"{path}: bytes 0 to {len(data) - 1:,} ")  # the block, of at most 4 MiB
    alone = vitstream("checkpoint", "verify", path.parent)
    assert alone.returncode == 1 and str(path) in alone.stdout


def test_a_login_node_has_all_three(run):
    code = "import sys; sys.modules['torch'] = None; from pipeline.cli import main; main()"
    step = run / "checkpoints" / "step-00000020"
    for arguments in (["ls", run], ["verify", run], ["keep", step], ["ls", run]):
        command = [sys.executable, "-c", code, "checkpoint", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert " kept\n" in done.stdout


def test_nothing_there_is_one_line(tmp_path):
    one_line(vitstream("checkpoint", "ls", tmp_path), "no run's folder")
    one_line(vitstream("checkpoint", "verify", tmp_path / "none"), "neither a run's folder nor one of its checkpoints")
    (tmp_path / "checkpoints").mkdir()
    assert listed(tmp_path) == {}
    one_line(vitstream("checkpoint", "verify", tmp_path), "no checkpoint yet")
