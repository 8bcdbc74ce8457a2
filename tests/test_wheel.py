"""The built wheel, installed in an environment of its own and used from another folder, works as the checkout does."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.images import write_photo_folder
from tests.runs import CHECKOUT, write_run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory) -> Path:
    """`vitstream` of an environment that has the wheel, and our own for the libraries, but not for this project."""
    place = tmp_path_factory.mktemp("wheel") / "venv"
    venv.create(place, with_pip=False)
    libraries = sysconfig.get_paths()["purelib"]
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], check=True, timeout=120)
    site = next(place.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(libraries + "\n")  # a path only: its own .pth files, so our checkout, stay out
    return place / "bin" / "vitstream"


def test_the_wheel_holds_what_it_needs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"pipeline/ds_configs/zero1.json", "pipeline/presets/vit-h14-jft300m.yaml"} <= set(names)
    assert "pipeline/models/shipped/bit-r50x1.json" in names
    assert {"pipeline/slurm/prep.sbatch", "pipeline/slurm/train.sbatch"} <= set(names)
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"pipeline", "data_prep"}


def test_shard_verify_order_and_train_from_another_folder(command, tmp_path):
    def run(*arguments: object) -> str:
        done = subprocess.run(
            [str(command), *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [command.parent / "python", "-c", "import pipeline; print(pipeline.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert str(command.parent.parent) in where.stdout, "the checkout was imported, not the wheel"
    (tmp_path / "pipeline").mkdir()  # a user's folder of the same name must not get in the way
    (tmp_path / "pipeline" / "__init__.py").write_text("raise ImportError('the wrong pipeline')")
    write_photo_folder(tmp_path / "photos", classes=3, per_class=40)
    run("shard", "photos", "--out", "data", "--val-fraction", 0.2)
    assert "agree" in run("verify", "data")
    run("order", "data/train", "--batch-size", 8, "--step", 1)
    write_run(tmp_path / "run.yaml", Path("data/train"), Path("data/val"), run_dir="run", steps=3, epochs=None)
    assert "accuracy" in run("train", "run.yaml", "--nproc", 2)
    assert (tmp_path / "run" / "checkpoints" / "step-00000003" / "manifest.json").exists()
    assert "finished" in run("status", "run")
    assert "pipeline.cluster.dry_run 000 -- run.yaml" in run("submit", "run.yaml", "--dry-run")
    snapshot = [command.parent / "python", "-P", "-m", "pipeline.cluster.dry_run", "000", "--", "run.yaml"]
    subprocess.run(snapshot, cwd=tmp_path, check=True)
    code = tmp_path / "run" / "submit" / "000" / "code"
    assert {path.name for path in code.iterdir()} == {"pipeline", "data_prep"}
    assert (code / "pipeline/slurm/train.sbatch").is_file() and (code / "pipeline/ds_configs/zero1.json").is_file()
