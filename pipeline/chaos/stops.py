"""Signals, and now and then a STOP file, at random moments: saved, stopped, and the same command goes on."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.chaos.family import Family, Start
from pipeline.chaos.kills import Broken, ended, run_dir_of
from pipeline.checkpoint.manifest import published, step_of
from pipeline.run.metrics import read_steps

WAYS: Final = ("SIGTERM", "SIGUSR1", "STOP", "SIGINT")


def run_stopped(
    start: Start,
    run_yaml: Path,
    processes: int,
    stops: int,
    log: Path,
    chance: random.Random,
    say: Callable[[str], None] = lambda line: None,
) -> Counter[str]:
    """Starts a run again and again and stops it `stops` times, then lets it end. Raises Broken."""
    run, done, longest_s = run_dir_of(run_yaml), Counter[str](), 4.0
    while done.total() < stops:
        began = time.monotonic()
        family = start(run_yaml, processes, log)
        name = WAYS[done.total() % len(WAYS)]
        if not _wait(family, chance.uniform(0, longest_s)) or family.head is None:
            break
        _ask(name, family.head, run)
        code = ended(family)
        if code == 0:  # it had just finished
            break
        longest_s = max(longest_s, min(20.0, time.monotonic() - began))
        done[name] += 1
        _check(run, code, name)
        say(f"stopped {done.total()} of {stops}: {name}, {time.monotonic() - began:.1f} s after the start")
    code = ended(start(run_yaml, processes, log))
    if code != 0:
        raise Broken(f"after {done.total()} stops the same command did not end well: see {log}")
    return done


def _ask(name: str, launcher: int, run: Path) -> None:
    """By a signal, or by the file."""
    if name == "STOP":
        run.mkdir(exist_ok=True)
        (run / name).touch()
        return
    with suppress(ProcessLookupError):
        os.kill(launcher, getattr(signal, name))


def _wait(family: Family, seconds: float) -> bool:
    """False where the run ended first."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not family.alive():
            return False
        time.sleep(0.002)
    return True


def _check(run: Path, code: int, name: str) -> None:
    """What must hold once a run has been stopped. Raises Broken."""
    attempt = max((run / "attempts").iterdir(), default=None) if (run / "attempts").is_dir() else None
    if attempt is None:  # before it was anything
        return
    verdict = json.loads((attempt / "verdict.json").read_text()) if (attempt / "verdict.json").exists() else {}
    if code != 3 or not verdict.get("resumable"):
        raise Broken(f"{name}: exit code {code}, verdict {verdict or 'missing'}; see {attempt}")
    saved = max(map(step_of, published(run / "checkpoints")), default=0)
    lost = max(read_steps(run / "metrics.jsonl"), default=0) - saved
    if lost > 0:
        raise Broken(f"{name}: {lost} steps were done and are not in a checkpoint; see {attempt}")
