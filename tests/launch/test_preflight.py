"""A user's mistakes: one clear line that names the file or key and the fix, exit code 2, and nothing started."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.datasets import make_dataset
from tests.runs import COMMAND, one_line, vitstream, write_run

TORCH_BLOCKED = "import sys; sys.modules['torch'] = None; from pipeline.cli import main; main()"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("preflight") / "data"
    make_dataset(path, 64)
    return path


def refused(run, *words, arguments=()):
    """All of these are found before torch is imported, so a login node finds them too."""
    command = [sys.executable, "-c", TORCH_BLOCKED, "train", str(run), *arguments]
    one_line(subprocess.run(command, capture_output=True, text=True, timeout=60), *words)


def test_unknown_key_names_the_nearest(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", data, optimiser={"lr": 1e-3})
    refused(run, "run.yaml", "optimiser", "did you mean optimizer?")
    refused(write_run(run, data, model={"name": "vit-b/16", "imagesize": 224}), "model.imagesize", "image_size")


def test_missing_dataset(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", tmp_path / "nowhere")
    refused(run, "data.train", "nowhere", "vitstream shard")
    (tmp_path / "nowhere" / "train").mkdir(parents=True)
    shutil.copytree(data, tmp_path / "nowhere" / "train", dirs_exist_ok=True)
    refused(run, "data.train", "nowhere", "train: name one of them")


def test_missing_validation_set_and_a_file_as_run_dir(data, tmp_path):
    refused(write_run(tmp_path / "run.yaml", data, tmp_path / "x"), "data.val", "no such dataset")
    run = write_run(tmp_path / "run.yaml", data, run_dir=str(tmp_path / "run.yaml" / "x"))
    refused(run, "run_dir", "cannot write")


def test_batch_smaller_than_the_ranks(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", data, batch_size=3)
    refused(run, "batch_size", "3", "4 ranks", arguments=("--nproc", "4"))


def test_image_size_not_a_multiple_of_the_patch(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", data, model={"name": "vit-h/14", "image_size": 384})
    refused(run, "image_size 384", "14", "378 or 392")


def test_other_wrong_values(data, tmp_path):
    run = tmp_path / "run.yaml"
    refused(write_run(run, data, zero="zero4"), "zero", "zero0, zero1, zero2, zero3, zero3_offload")
    refused(write_run(run, data, evaluate={"weights": "ema"}), "evaluate.weights", "ema: {decay: 0.9999}")
    refused(write_run(run, data, zero="zero0", precision="bf16"), "zero0", "fp32")
    refused(write_run(run, data, batch_size="many"), "batch_size")
    refused(write_run(run, data, model={"name": "vit-q/16"}), "model.name", "vit-q/16", "ti, s, b, l, h, g")
    refused(write_run(run, data, steps=4), "exactly one of epochs and steps")
    template = tmp_path / "mine.json"
    template.write_text('{"zero_optimization": {"stage": 1}, "gradient_clipping": 1.0}')
    refused(write_run(run, data, zero=str(template)), "mine.json", "gradient_clipping")
    template.write_text('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}')
    refused(write_run(run, data, zero=str(template)), "mine.json", "offload_optimizer", "stage 3", "zero3_offload")
    template.write_text('{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}')
    refused(write_run(run, data, zero=str(template)), "mine.json", "offload_optimizer", '"device": "cpu"')
    template.write_text("{")
    refused(write_run(run, data, zero=str(template)), "mine.json", "JSON")


def test_other_classes_in_validation(data, tmp_path):
    make_dataset(tmp_path / "val", 16, classes=3)
    refused(write_run(tmp_path / "run.yaml", data, tmp_path / "val"), "data.val", "other classes")


def test_no_such_file_and_no_yaml(tmp_path):
    refused(tmp_path / "none.yaml", "none.yaml", "No such file")
    (tmp_path / "bad.yaml").write_text("a: [1")
    refused(tmp_path / "bad.yaml", "bad.yaml", "YAML", "line")
    refused(tmp_path, str(tmp_path))


def test_no_permission(data, tmp_path):
    """As root, permissions bind only a process that has given up the right to override them."""
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    (copy / "dataset.json").chmod(0)
    for run, words in (
        (write_run(tmp_path / "a.yaml", data, run_dir=str(locked / "run")), ("run_dir", "locked", "Permission denied")),
        (write_run(tmp_path / "b.yaml", copy), ("data.train", "dataset.json", "permission")),
    ):
        command = [*unprivileged, *COMMAND, "train", str(run)]
        one_line(subprocess.run(command, capture_output=True, text=True, timeout=60), *words)


def test_a_checkpoint_fixes_model_and_seed(data, tmp_path):
    run = write_run(tmp_path / "run.yaml", data, steps=2, epochs=None)
    assert vitstream("train", run).returncode == 0
    refused(run, "model.depth", "2", "3", arguments=("--set", "model.depth=3"))
    refused(run, "seed", arguments=("--set", "seed=1"))
    changed = vitstream("train", run, "--set", "steps=3", "--set", "optimizer.lr=0.5")
    assert changed.returncode == 0
    assert "optimizer.lr: 0.001 -> 0.5" in changed.stdout
