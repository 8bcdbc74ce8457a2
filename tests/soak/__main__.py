"""Runs fault matrices: `python -m tests.soak [--only NAME] [--faults NAME=COUNT] [--seed N]`. Run again, it goes on."""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.runs import CHECKOUT
from tests.soak import (
    checkpoint_kills,
    checkpoint_matrix,
    checkpoint_mutations,
    ports,
    prep_kills,
    prep_sources,
    stop_signals,
    stream_cycles,
    stream_faults,
    stream_kills,
    verdicts,
)
from tests.soak.matrix import Matrix

MATRICES = (
    prep_kills.MATRIX,
    prep_sources.MATRIX,
    stream_kills.MATRIX,
    stream_cycles.MATRIX,
    stream_faults.MATRIX,
    checkpoint_kills.MATRIX,
    checkpoint_matrix.MATRIX,
    stop_signals.MATRIX,
    checkpoint_mutations.MATRIX,
    verdicts.MATRIX,
    ports.MATRIX,
)
REPORT = CHECKOUT / "docs/faults.md"


def main() -> int:
    """Every trial that has no result yet; then the report. Exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--only", action="append", choices=[m.name for m in MATRICES], help="run only this; repeatable")
    parser.add_argument("--faults", action="append", default=[], metavar="NAME=COUNT", help="instead of the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "soak-output", help="results and scratch")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    counts = {m.name: m.default_faults for m in MATRICES} | {
        name: int(count) for name, _, count in (text.partition("=") for text in options.faults)
    }
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # all add up in the same order
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "results.jsonl"
    for matrix in MATRICES:
        if options.only and matrix.name not in options.only:
            continue
        trials = matrix.trials(counts[matrix.name], options.seed)
        known = {json.dumps(r["trial"], sort_keys=True) for r in read(results) if r["matrix"] == matrix.name}
        todo = [trial for trial in trials if json.dumps(trial, sort_keys=True) not in known]
        print(f"{matrix.name}: {len(trials)} trials, {len(trials) - len(todo)} done before", flush=True)
        for trial in todo:
            result = run_one(matrix, trial, options.folder)
            with results.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
    write_report(options.report, read(results))
    return int(any(not result["held"] for result in read(results)))


def run_one(matrix: Matrix, trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One trial in a folder of its own, which stays where the promise was broken."""
    scratch = folder / f"{matrix.name}-{trial['seed']}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    start = time.monotonic()
    try:
        outcome: dict[str, Any] = matrix.run(trial, scratch) | {"held": True}
        shutil.rmtree(scratch)
    except AssertionError as error:
        outcome = {"faults": 0, "held": False, "why": str(error)[:2000]}
    return {"matrix": matrix.name, "trial": trial, **outcome, "seconds": round(time.monotonic() - start, 1)}


def read(results: Path) -> list[dict[str, Any]]:
    """All results, without a torn last line."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def write_report(path: Path, results: list[dict[str, Any]]) -> None:
    """docs/faults.md: a row per matrix, the one that is there where it has no results here."""
    rows = [line for line in path.read_text().splitlines() if line.startswith("| ")] if path.exists() else []
    before = {row.split("|")[1].strip(): row for row in rows}
    lines = [
        "# Fault matrices",
        "",
        "Written by `make soak`; the suite runs a seeded sample of the same code. A row stays until its matrix is run",
        "again.",
        f"Machine: {len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| matrix | trials | faults | broken promises | minutes | what must hold |",
        "|---|---|---|---|---|---|",
    ]
    for matrix in MATRICES:
        mine = [result for result in results if result["matrix"] == matrix.name]
        if mine:
            faults, broken = sum(r["faults"] for r in mine), sum(not r["held"] for r in mine)
            minutes = sum(r["seconds"] for r in mine) / 60
            lines.append(f"| {matrix.name} | {len(mine)} | {faults} | {broken} | {minutes:.1f} | {matrix.promise} |")
        elif matrix.name in before:
            lines.append(before[matrix.name])
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
