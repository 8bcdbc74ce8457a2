"""SIGKILL at random moments of a checkpoint's life, to a random rank or the launcher, then the same command again.

What must hold: the run goes on by itself, and ends as if nothing had happened.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.chaos.family import Family, Start, kill
from pipeline.chaos.moments import MOMENTS, arrive
from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.verify import verify
from pipeline.run.metrics import read_steps

_SAME = ("batch_digest", "loss", "grad_norm", "lr", "consumed", "epoch")  # of each step


@dataclass
class Killed:
    """What was done to a run."""

    at: Counter[str] = field(default_factory=Counter)  # moments, as they were seen
    victims: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        return self.at.total()


class Broken(AssertionError):
    """A promise that was not held; the message says which."""


def run_killed(
    start: Start,
    run_yaml: Path,
    processes: int,
    kills: int,
    log: Path,
    chance: random.Random,
    say: Callable[[str], None] = lambda line: None,
) -> Killed:
    """Starts a run again and again and kills it `kills` times, then lets it end. Raises Broken."""
    done = Killed()
    checkpoints, typical_s = run_dir_of(run_yaml) / "checkpoints", 2.0
    while done.kills < kills:
        moment = MOMENTS[done.kills % len(MOMENTS)]
        before, began = set(published(checkpoints)), time.monotonic()
        family = start(run_yaml, processes, log)
        seen = arrive(moment, checkpoints, family.alive, typical_s, chance)
        if seen is None:  # it has ended before
            if ended(family) != 0:
                raise Broken(f"a run that nobody disturbed failed: see {log}")
            return done
        typical_s = min(typical_s, time.monotonic() - began) if set(published(checkpoints)) - before else typical_s
        victim = strike(family, processes, chance)
        if victim is not None:
            done.victims[victim] += 1
            done.at[seen] += 1
            say(f"killed {done.kills} of {kills}: {victim}, at {seen}")
        ended(family)
    if ended(start(run_yaml, processes, log)) != 0:
        raise Broken(f"after {done.kills} kills the same command did not end well: see {log}")
    return done


def ended(family: Family) -> int:
    """A run's exit code, once all its processes have ended. Raises Broken where they do not."""
    try:
        return family.wait()
    except TimeoutError as error:
        raise Broken(str(error)) from None


def strike(family: Family, processes: int, chance: random.Random) -> str | None:
    """Kills one of a run's processes. Returns which, or None where it had ended by itself."""
    ends = time.monotonic() + 10
    while len(family.ranks) < processes and family.alive() and time.monotonic() < ends:
        time.sleep(0.001)
    victims = {f"rank {rank}": pid for rank, pid in enumerate(family.ranks)}
    if family.head is not None:
        victims["launcher"] = family.head
    name = chance.choice(sorted(victims)) if victims else None
    return name if name and kill(victims[name]) else None


def compare(run_yaml: Path, undisturbed: Path) -> None:
    """Whether a run ended as the other did: every step, and every byte of the last weights. Raises Broken."""
    mine, other = (read_steps(run_dir_of(run) / "metrics.jsonl") for run in (run_yaml, undisturbed))
    if mine.keys() != other.keys():
        raise Broken(f"steps {sorted(mine.keys() ^ other.keys())[:5]} were done by one run only")
    for step, line in other.items():
        for name in _SAME:
            if mine[step][name] != line[name]:
                raise Broken(f"step {step}: {name} is {mine[step][name]}, undisturbed {line[name]}")
    if weights_of(run_yaml) != weights_of(undisturbed):
        raise Broken("the last checkpoints' tensors are not the same to the last bit")


def weights_of(run_yaml: Path) -> list[Any]:
    """What identifies the tensors of the last checkpoint, once every byte of it verifies."""
    *_, last = published(run_dir_of(run_yaml) / "checkpoints")
    manifest = verify(last)
    return [manifest.step, manifest.optimizer_step, sorted((f["name"], f["sha256"]) for f in manifest.files)]


def run_dir_of(run_yaml: Path) -> Path:
    """Of a run whose YAML names it plainly."""
    return Path(yaml.safe_load(run_yaml.read_text())["run_dir"])
