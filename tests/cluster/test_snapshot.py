"""What a queued run starts: code, templates and scripts as the wheel has them, and paths that hold anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.job import JobFile, next_submission
from pipeline.cluster.snapshot import snapshot, with_absolute_paths
from pipeline.config import Config, load_config
from pipeline.dataset.errors import UsageError
from tests.runs import CHECKOUT

TREE = {
    "run_dir": "runs/a",
    "data": {
        "train": [{"path": "data/a", "weight": 1}, {"path": "s3://user:secret@bucket/b?x=1", "weight": 2}],
        "val": "data/val",
        "classes": "names.txt",
        "cache": {"dir": "cache", "bytes": "1GB"},
    },
    "model": {"name": "vit-ti/8", "image_size": 32, "init": "weights"},
    "batch_size": 8,
    "steps": 3,
    "checkpoint": {"copy_to": "copies"},
    "zero": "my.json",
}


def job(run: Path) -> JobFile:
    return JobFile(str(run), "config.yaml", "python", (), 1, 1, None, None, 60, "vitstream-x-0", 50, 3, False, False)


def test_paths_hold_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(Config.model_validate(TREE))
    tree = config.to_json()
    assert (tree["run_dir"], tree["zero"]) == (f"{tmp_path}/runs/a", f"{tmp_path}/my.json")
    assert [each["path"] for each in tree["data"]["train"]] == [f"{tmp_path}/data/a", "s3://user:secret@bucket/b?x=1"]
    assert tree["data"]["classes"] == f"{tmp_path}/names.txt" and tree["data"]["cache"]["dir"] == f"{tmp_path}/cache"
    assert tree["model"]["init"] == f"{tmp_path}/weights" and tree["checkpoint"]["copy_to"] == f"{tmp_path}/copies"
    assert with_absolute_paths(Config.model_validate(TREE | {"zero": "zero2"})).zero == "zero2"
    assert with_absolute_paths(config) == config
    plain = with_absolute_paths(Config.model_validate(TREE | {"data": {"train": "data"}}))
    assert plain.to_json()["data"]["train"] == f"{tmp_path}/data"
    foreign = with_absolute_paths(Config.model_validate(TREE | {"model": {"name": "hf:models/bit"}}))
    assert foreign.model.name == f"hf:{tmp_path}/models/bit" and with_absolute_paths(foreign) == foreign


def test_the_code_runs_by_itself(tmp_path: Path) -> None:
    config = Config.model_validate(TREE)
    submission = next_submission(tmp_path / "run")
    snapshot(submission, job(tmp_path / "run"), config)
    assert not list(submission.path.rglob("__pycache__")) and not list((tmp_path / "run" / "submit").glob(".*"))
    assert submission.config.stat().st_mode & 0o777 == 0o600
    assert "secret" in submission.config.read_text() and load_config(submission.config) == with_absolute_paths(config)
    code = (
        "import pipeline, data_prep, pipeline.rank\n"
        "from pipeline.cluster.sbatch import script\n"
        "from pipeline.launch.template import template_path\n"
        "from pipeline.run.environment import code_version\n"
        "print(pipeline.__file__, data_prep.__file__, template_path('zero1'), script('prep.sbatch'), sep='\\n')\n"
        "print(code_version().get('git_commit'))"
    )
    (tmp_path / "pipeline").mkdir()  # what lies in the working directory must not get in the way
    (tmp_path / "pipeline" / "__init__.py").write_text("raise ImportError('the wrong pipeline')")
    environment = os.environ | {"PYTHONPATH": str(submission.code), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    *paths, commit = done.stdout.splitlines()
    assert len(paths) == 4 and all(path.startswith(f"{submission.code}/") for path in paths), done.stdout
    assert commit == "None" or commit in (submission.code / ".git_commit").read_text()
    assert (submission.code / ".git_commit").exists() == (CHECKOUT / ".git").exists()


@pytest.mark.fast
def test_another_submission_is_not_overwritten(tmp_path: Path) -> None:
    submission = next_submission(tmp_path)
    submission.path.mkdir(parents=True)
    with pytest.raises(UsageError, match="another"):
        snapshot(submission, job(tmp_path), Config.model_validate(TREE))
    assert [path.name for path in (tmp_path / "submit").iterdir()] == ["000"]
