"""Runs as a user starts them: a YAML file, the `vitstream` command in a process of its own, and its files.

What tests start often is forked (nest.py). tests/slurm, test_wheel.py, tests/demo and some others start new processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline.run.metrics import read_steps
from tests.nest import Hatched
from tests.ranks import Ended, run_ranks

CHECKOUT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "pipeline.cli"]
_FORKED = ("train", "chaos", "shard", "verify", "finalize")  # what tests start often, and would wait for its imports


def write_run(path: Path, train: Path, val: Path | None = None, **overrides) -> Path:
    """Writes a small run's YAML: 33 steps of a tiny ViT on the 352 samples of `train`, in well under ten seconds."""
    tree = {
        "run_dir": str(path.with_suffix("")),
        "data": {"train": str(train), **({"val": str(val)} if val else {})},
        "model": {"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 64, "heads": 2, "mlp_dim": 128},
        "batch_size": 32,
        "micro_batch_size": 8,
        "epochs": 3,
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup_steps": 5},
        "precision": "fp32",
        "zero": "zero1",
        "checkpoint": {"every_steps": 5},
        "evaluate": {"every_steps": 1000, "crop": 1.0},
        "loader": {"workers": 1},
        "log_every": 1,
    }
    tree |= overrides
    path.write_text(yaml.safe_dump(tree))
    return path


def start(*arguments: object, fork: bool = True, **popen) -> subprocess.Popen:
    """A vitstream command under way; its output is read by `communicate`. `fork`: if it is one of _FORKED."""
    popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | popen
    kind = Hatched if fork and arguments[0] in _FORKED else subprocess.Popen
    return kind([*COMMAND, *map(str, arguments)], **popen)


def vitstream(*arguments: object, cwd: Path = CHECKOUT, **environment: str) -> subprocess.CompletedProcess:
    """A vitstream command, waited for, with `environment` added to ours. Check `.returncode` yourself."""
    ours = {name: value for name, value in os.environ.items() if name not in ("RANK", "SLURM_PROCID")}
    process = start(*arguments, cwd=cwd, env={"PYTHONPATH": str(CHECKOUT)} | ours | environment)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()  # one that has ended does not mind
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train(run_yaml: Path, nproc: int = 1, *arguments: object) -> Ended:
    """Trains to the end, which has to be a good one: `vitstream train` as ranks without our launcher (ranks.py)."""
    done = run_ranks("pipeline.cli", ("train", run_yaml, *arguments), nproc)
    assert done.codes == [0] * nproc, (done.codes, done.stdout, done.stderr)
    return done


def steps_of(run_yaml: Path) -> dict[int, dict]:
    """step -> its line of metrics.jsonl."""
    return read_steps(run_yaml.with_suffix("") / "metrics.jsonl")


def verdict_of(run_yaml: Path, attempt: int) -> dict:
    return json.loads((run_yaml.with_suffix("") / "attempts" / f"{attempt:03d}" / "verdict.json").read_text())


def one_line(done: subprocess.CompletedProcess, *words: str, code: int = 2) -> None:
    """Asserts that a command ended with this exit code and one clear line that has all of `words` in it."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert len(lines) == 1 and lines[0].startswith("vitstream: "), done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
