"""Checkpoints damaged in many ways, each a fresh copy: what is damaged is found, and named."""

import random
import shutil
from collections import Counter
from pathlib import Path

from pipeline.chaos.damage import DAMAGES, flip_bits
from pipeline.chaos.family import Start
from pipeline.chaos.kills import Broken, compare, ended, run_dir_of
from pipeline.chaos.small import write_small_run
from pipeline.checkpoint.manifest import Damaged, published
from pipeline.checkpoint.verify import verify


def check_damages(run_yaml: Path, times: int, folder: Path, chance: random.Random) -> Counter[str]:
    """Damages copies of a finished run's newest checkpoint. Raises Broken where one is not found, or not named."""
    newest = published(run_dir_of(run_yaml) / "checkpoints")[-1]
    done = Counter[str]()
    for number in range(times):
        kind = sorted(DAMAGES)[number % len(DAMAGES)]
        copy = folder / newest.name
        shutil.copytree(newest, copy)
        hurt = chance.choice(sorted(copy.iterdir()))
        DAMAGES[kind](hurt, chance)
        try:
            verify(copy)
        except Damaged as damage:
            if hurt.name not in str(damage):
                raise Broken(f"{kind} of {hurt.name} was found, but named otherwise: {damage}") from None
        else:
            raise Broken(f"{kind} of {hurt.name} was not found")
        shutil.rmtree(copy)
        done[kind] += 1
    return done


def resume_from_damaged(
    start: Start, run_yaml: Path, processes: int, tree: dict, folder: Path, chance: random.Random
) -> None:
    """A start on a finished run whose newest checkpoint is damaged: takes the one before, and ends the same. Raises
    Broken."""
    run, log = write_small_run(folder / "damaged.yaml", tree), folder / "damaged.log"
    shutil.copytree(run_dir_of(run_yaml), run_dir_of(run))
    *_, older, newest = published(run_dir_of(run) / "checkpoints")
    hurt = chance.choice(sorted(newest.iterdir()))
    flip_bits(hurt, chance)
    if ended(start(run, processes, log)) != 0:
        raise Broken(f"{newest.name} is damaged, and the run does not go on from {older.name}; see {log}")
    said = log.read_text()
    if hurt.name not in said or older.name not in said:
        raise Broken(f"the start does not say that {hurt.name} is damaged and {older.name} is taken; see {log}")
    compare(run, run_yaml)
