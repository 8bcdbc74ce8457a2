"""A study is one command, from images to a picture of its curves; here one epoch of a network of one block."""

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pipeline.run.metrics import read_lines, read_steps
from tests.runs import CHECKOUT


def test_a_study_is_one_command(tmp_path: Path) -> None:
    small = ["epochs=1", "model.depth=1", "schedule.warmup_steps=5"]
    done = subprocess.run(
        [sys.executable, "-m", "demo.results", "digits-vit", "--", *(word for key in small for word in ("--set", key))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    metrics = tmp_path / "results-output/digits-vit/metrics.jsonl"
    last = [line for line in read_lines(metrics) if "eval" in line][-1]
    assert told["study"] == "digits-vit" and told["epochs"] == 1
    assert told["steps"] == last["step"] == max(read_steps(metrics)) == 1406 // 64 + 1
    assert told["accuracy"] == round(last["accuracy"], 4)
    with Image.open(tmp_path / "docs/results/digits.png") as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 20)) > 20
