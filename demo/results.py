"""`python -m demo.results NAME`: trains a small network of demo/studies, and draws its curves beside its rival's.

The data is made where it is missing and a run that is there goes on, so the same command does what is left, if
anything. Everything lies under the working directory: results-output/ and docs/results/. What follows `--` is given to
`vitstream train`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.figure import Figure

from demo.digits import write_digits
from demo.draw import write_drawn
from pipeline.run.metrics import read_lines, read_steps

STUDIES = Path(__file__).parent / "studies"
OUTPUT, PICTURES = Path("results-output"), Path("docs/results")
CORPORA: dict[str, tuple[Callable[[Path], None], float]] = {  # name -> how it is written, share that is held out
    "digits": (write_digits, 0.2),
    "drawn": (partial(write_drawn, classes=100, images=240, size=32), 1 / 12),
}
RIVALS = {"vit": ("ViT", "tab:blue"), "bit": ("BiT", "tab:orange")}
NAMES = [f"{corpus}-{rival}" for corpus in CORPORA for rival in RIVALS]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.results", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("more", nargs="*", metavar="-- --set KEY=VALUE", help="for vitstream train")
    asked = parser.parse_args()
    corpus = asked.name.split("-")[0]
    prepare(corpus)
    config = STUDIES / f"{asked.name}.yaml"
    vitstream("train", config, "--nproc", 2, *asked.more)
    draw(corpus)
    print(json.dumps({"study": asked.name, **summary(OUTPUT / asked.name)}), flush=True)


def prepare(corpus: str) -> None:
    """Writes a corpus and shards it, unless that is done."""
    write, held_out = CORPORA[corpus]
    folder, data = OUTPUT / corpus, OUTPUT / f"{corpus}-data"
    if not (data / "val" / "dataset.json").exists():
        print(f"writing the images of {folder}", flush=True)
        write(folder)
        vitstream("shard", folder, "--out", data, "--size", 32, "--quality", 95, "--val-fraction", round(held_out, 4))


def vitstream(*arguments: object) -> None:
    """Runs a command as a user would, showing it first."""
    print(f"$ vitstream {' '.join(map(str, arguments))}", flush=True)
    code = subprocess.run([sys.executable, "-m", "pipeline.cli", *map(str, arguments)], check=False).returncode
    if code != 0:
        sys.exit(code)


def evaluations(run: Path) -> list[dict[str, Any]]:
    """One line for each step at which a run was evaluated, in order."""
    lines = {line["step"]: line for line in read_lines(run / "metrics.jsonl") if "eval" in line}
    return [lines[step] for step in sorted(lines)]


def summary(run: Path) -> dict[str, Any]:
    steps, last = read_steps(run / "metrics.jsonl"), evaluations(run)[-1]
    config = yaml.safe_load((run / "config.yaml").read_text())
    seconds = sum(line["step_s"] for line in steps.values())
    return {
        "epochs": config["epochs"],
        "steps": max(steps),
        "accuracy": round(last["accuracy"], 4),
        "loss": round(last["loss"], 4),
        "minutes": round(seconds / 60, 1),
        "images_per_s": round(sum(line["images_per_s"] * line["step_s"] for line in steps.values()) / seconds, 1),
    }


def draw(corpus: str) -> None:
    """PICTURES/CORPUS.png: losses, and accuracy on the held-out images, over steps, of the runs that there are."""
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        for rival, (name, colour) in RIVALS.items():
            run = OUTPUT / f"{corpus}-{rival}"
            if evaluated := evaluations(run):
                at = [line["step"] for line in evaluated]
                loss.plot(*smooth(run), color=colour, alpha=0.5, label=f"{name}, training")
                loss.plot(at, [line["loss"] for line in evaluated], color=colour, ls="--", label=f"{name}, held out")
                accuracy.plot(at, [100 * line["accuracy"] for line in evaluated], color=colour, marker=".", label=name)
        loss.set(xlabel="step", ylabel="loss", xlim=(0, None), ylim=(0, None))
        accuracy.set(xlabel="step", ylabel="accuracy on held-out images, %", xlim=(0, None), ylim=(0, 102))
        loss.legend(frameon=False, loc="upper right")
        accuracy.legend(frameon=False, loc="lower right")
        PICTURES.mkdir(parents=True, exist_ok=True)
        figure.savefig(PICTURES / f"{corpus}.png", dpi=110)


def smooth(run: Path, parts: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Steps and training losses, as means over about `parts` stretches of the run."""
    lines = read_steps(run / "metrics.jsonl")
    steps = np.array(sorted(lines))
    stretches = np.array_split(steps, min(parts, len(steps)))
    means = [np.mean([lines[step]["loss"] for step in stretch]) for stretch in stretches]
    return np.array([stretch.mean() for stretch in stretches]), np.array(means)


if __name__ == "__main__":
    main()
