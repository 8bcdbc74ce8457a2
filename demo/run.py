"""`make demo`: the whole way of a sample, on real scanned digits, with a kill in the middle.

Every step is the command that a user would type; this file types it, waits, and explains.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from demo.digits import write_digits
from pipeline.dataset.keys import MASK64
from pipeline.dataset.manifest import read_manifest
from pipeline.run.metrics import read_lines, read_steps

OUTPUT = Path("demo-output")
CONFIG = Path(__file__).parent / "digits.yaml"
RUN = OUTPUT / "run"
terminal = Console(highlight=False)


def main() -> None:
    began = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)

    explain("1. A corpus", "1,797 scanned handwritten digits (scikit-learn, UCI Optical Recognition), as PNG files")
    write_digits(OUTPUT / "digits")
    terminal.print(f"   wrote {OUTPUT / 'digits'}/0 ... 9: one folder per class")

    explain("2. Shard it", "images become verified tar shards with an index; a fifth is held out by hash of its key")
    shard = ["shard", OUTPUT / "digits", "--out", OUTPUT / "data", "--size", 32, "--quality", 95, "--val-fraction", 0.2]
    vitstream(*shard)
    vitstream("verify", OUTPUT / "data")

    explain("3. Train on 2 processes", "a small ViT, DeepSpeed ZeRO stage 2, a checkpoint every 60 steps")
    killed_at = train_and_kill(processes=2)
    terminal.print(f"\n   [bold red]kill -9[/] at step {killed_at}, half-way: launcher and both ranks are gone")

    explain(
        "4. Resume on 1 process", "the same command; the newest checkpoint is verified, byte by byte, before step 1"
    )
    vitstream("train", CONFIG, "--nproc", 1)

    explain("5. What it came to", "read from the run's own files: metrics.jsonl, digest.jsonl, attempts/*/verdict.json")
    ok = summarise(killed_at, time.perf_counter() - began)
    sys.exit(0 if ok else 1)


def explain(title: str, text: str) -> None:
    terminal.print(f"\n[bold]{title}[/]  {text}")


def vitstream(*arguments: object) -> None:
    """Runs a command as a user would, showing it first."""
    terminal.print(f"   [cyan]$ vitstream {' '.join(map(str, arguments))}[/]")
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        sys.exit(f"the demo stops: that command ended with exit code {code}")


def train_and_kill(processes: int) -> int:
    """Trains until half of the steps are in metrics.jsonl, then SIGKILLs the launcher. Returns the step reached."""
    config = yaml.safe_load(CONFIG.read_text())
    samples = read_manifest(Path(config["data"]["train"])).samples
    half = config["epochs"] * samples // config["batch_size"] // 2
    terminal.print(f"   [cyan]$ vitstream train {CONFIG} --nproc {processes}[/]")
    command = [sys.executable, "-m", "pipeline.cli", "train", str(CONFIG), "--nproc", str(processes)]
    training = subprocess.Popen(command)
    while training.poll() is None and max(read_steps(RUN / "metrics.jsonl"), default=0) < half:
        time.sleep(0.2)
    if training.poll() is not None:
        sys.exit(f"the demo stops: training ended by itself, with exit code {training.returncode}")
    training.send_signal(signal.SIGKILL)
    training.wait()
    return max(read_steps(RUN / "metrics.jsonl"))


def summarise(killed_at: int, seconds: float) -> bool:
    """Prints the closing table. Returns whether everything that the demo promises held."""
    lines = list(read_lines(RUN / "metrics.jsonl"))
    steps = read_steps(RUN / "metrics.jsonl")
    accuracy = [line["accuracy"] for line in lines if "eval" in line][-1]
    manifest = read_manifest(OUTPUT / "data" / "train")
    certificates = {line["epoch"]: line for line in read_lines(RUN / "digest.jsonl")}
    epochs = yaml.safe_load(CONFIG.read_text())["epochs"]
    proved = [e for e in range(epochs) if certificates.get(e, {}).get("exactly_once")]
    digests = sum(int(line["batch_digest"], 16) for line in steps.values()) & MASK64
    adds_up = digests == manifest.key_sum * epochs & MASK64
    resumed = min(s for s, line in steps.items() if line["attempt"] == 1)
    again = sum(1 for line in lines if "eval" not in line) - len(steps)

    table = Table(title="vitstream demo", show_header=False, title_justify="left")
    table.add_row("validation accuracy", f"{accuracy:.2%} on {read_manifest(OUTPUT / 'data' / 'val').samples} images")
    for attempt, name in ((0, "2 processes"), (1, "1 process")):
        ours = [line for line in steps.values() if line["attempt"] == attempt]
        rate = sum(line["images_per_s"] * line["step_s"] for line in ours) / sum(line["step_s"] for line in ours)
        table.add_row(f"images/s on {name}", f"{rate:,.0f}")
    table.add_row("killed", f"SIGKILL after step {killed_at} of {max(steps)}, on 2 processes")
    table.add_row("resumed", f"at step {resumed}, on 1 process, {again} steps done again")
    table.add_row("exactly once", f"{len(proved)} of {epochs} epochs: all {manifest.samples:,} samples, none twice")
    table.add_row("proof", "the batch digests of all steps add up to the manifest's key sum x epochs: " + str(adds_up))
    table.add_row("verdicts", ", ".join(verdicts()))
    table.add_row("time", f"{seconds:.0f} s")
    terminal.print(table)

    proof = Table(title="every epoch's certificate (digest.jsonl)", title_justify="left")
    for column in ("epoch", "samples", "holes", "digest of what was read", "expected from dataset.json", "equal"):
        proof.add_column(column, justify="right")
    for epoch, line in sorted(certificates.items()):
        equal = "yes" if line["exactly_once"] else "NO"
        proof.add_row(str(epoch), f"{line['samples']:,}", str(line["holes"]), line["digest"], line["expected"], equal)
    terminal.print(proof)
    terminal.print(f"Look around: {RUN}/metrics.jsonl, {RUN}/checkpoints, {OUTPUT}/data/train/dataset.json")
    return accuracy >= 0.95 and len(proved) == epochs and adds_up


def verdicts() -> list[str]:
    attempts = sorted((RUN / "attempts").iterdir())
    return [f"attempt {int(a.name)} {json.loads((a / 'verdict.json').read_text())['cause']}" for a in attempts]


if __name__ == "__main__":
    main()
