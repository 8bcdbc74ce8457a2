"""The command line as a whole: help, speed of start, exit codes, a login node without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cli import app, checkpoint
from tests.datasets import make_dataset
from tests.runs import CHECKOUT, one_line, vitstream

VERBS = [(command.callback.__name__,) for command in app.registered_commands]
VERBS += [("checkpoint", command.name or command.callback.__name__) for command in checkpoint.app.registered_commands]
HEAVY = ("torch", "numpy", "pyarrow", "deepspeed", "transformers", "cv2", "PIL")
RUN = {
    "run_dir": "runs/one",
    "data": {"train": "train", "val": "val"},
    "model": {"name": "vit-ti/8", "image_size": 32},
    "batch_size": 8,
    "epochs": 1,
    "precision": "fp32",
}


def modules_after(*arguments: str) -> set[str]:
    """Top-level modules that `vitstream ARGUMENTS` has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('MODULES', *{m.partition('.')[0] for m in sys.modules}))\n"
        f"sys.argv = ['vitstream', *{list(arguments)!r}]\n"
        "from pipeline.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.fixture
def login_node(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch, DeepSpeed or transformers fails, in every process."""
    blocker = tmp_path / "no-torch"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'deepspeed', 'transformers'):\n"
        "            raise ImportError(f'{name} is not installed on a login node')\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    return {"PYTHONPATH": f"{blocker}:{CHECKOUT}"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with datasets and a run.yaml."""
    make_dataset(tmp_path / "train", 20, shards=1, size=(40, 40))
    make_dataset(tmp_path / "val", 6, shards=1, size=(40, 40), seed=1)
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, **changes: object) -> None:
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN | changes))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        done = vitstream(*verb, option)
        assert done.returncode == 0 and "Example:" in done.stdout and f"vitstream {' '.join(verb)} " in done.stdout
        assert "Exit codes:" in done.stdout


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    done = vitstream("--help")
    assert done.returncode == 0 and all(verb[0] in done.stdout for verb in VERBS)
    assert not modules_after("--help").intersection(HEAVY)
    for verb in VERBS:
        assert not modules_after(*verb, "--help").intersection(HEAVY), verb


@pytest.mark.parametrize("arguments", [("no-such-verb",), ("train",), ("order", "--step", "x"), ("train", "--bogus")])
def test_wrong_usage_is_exit_code_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = vitstream(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr


def test_a_login_node_without_torch(work: Path, login_node: dict[str, str]) -> None:
    blocked = subprocess.run([sys.executable, "-c", "import torch"], env=login_node, capture_output=True, text=True)
    assert "not installed on a login node" in blocked.stderr  # the block works

    assert vitstream("--help", **login_node).returncode == 0
    assert vitstream("train", "--help", **login_node).returncode == 0
    done = vitstream("order", "train", "--batch-size", 8, "--step", 1, cwd=work, **login_node)
    assert done.returncode == 0 and len(done.stdout.split()) == 8, done.stderr
    configure(work, bach_size=9)
    refused = vitstream("train", "run.yaml", cwd=work, **login_node)
    one_line(refused, "run.yaml: unknown key bach_size; did you mean batch_size?")


def test_validation_data_of_other_classes_is_refused(work: Path) -> None:
    make_dataset(work / "other", 6, classes=3, shards=1, size=(40, 40))
    configure(work, data={"train": "train", "val": "other"})
    one_line(vitstream("train", "run.yaml", cwd=work), "data.val", "other classes")


def test_a_closed_pipe_is_no_traceback(work: Path) -> None:
    command = f"{sys.executable} -m pipeline.cli order train --batch-size 20000 --step 1 | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=work, env={"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True
    )
    assert len(done.stdout.split()) == 1 and done.stderr == ""
