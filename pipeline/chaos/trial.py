"""Faults done to a small run of a user's own, beside one that nobody disturbs, and what became of it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.chaos.family import Start
from pipeline.chaos.kills import Broken, compare, ended, run_killed
from pipeline.chaos.mutations import check_damages, resume_from_damaged
from pipeline.chaos.small import small_run, write_small_run
from pipeline.chaos.stops import run_stopped
from pipeline.config import Config
from pipeline.dataset.errors import WorkFailed


@dataclass(frozen=True)
class Outcome:
    """A row of the table."""

    fault: str
    times: int
    held: bool
    note: str  # what was seen; or why it did not hold


@dataclass(frozen=True)
class Faults:
    """How often each is done."""

    kills: int
    stops: int
    mutations: int


def try_faults(
    config: Config, processes: int, faults: Faults, folder: Path, seed: int, start: Start, say: Callable[[str], None]
) -> Iterator[Outcome]:
    """Does all faults, one kind after the other, in an empty folder.

    Raises:
        WorkFailed: the run fails although nobody disturbs it.
    """
    tree = small_run(config, processes, steps=max(30, 8 * max(faults.kills, faults.stops)))
    say(f"a run that nobody disturbs: {tree['steps']} steps on {processes} processes")
    whole = write_small_run(folder / "undisturbed.yaml", tree)
    if ended(start(whole, processes, folder / "undisturbed.log")) != 0:
        raise WorkFailed(f"the small run fails although nobody disturbs it; see {folder / 'undisturbed.log'}")

    def kills() -> tuple[int, str]:
        run, log = write_small_run(folder / "killed.yaml", tree), folder / "killed.log"
        done = run_killed(start, run, processes, faults.kills, log, random.Random(seed), say)
        compare(run, whole)
        return done.kills, ", ".join(f"{count} at {moment}" for moment, count in sorted(done.at.items()))

    def stops() -> tuple[int, str]:
        run, log = write_small_run(folder / "stopped.yaml", tree), folder / "stopped.log"
        done = run_stopped(start, run, processes, faults.stops, log, random.Random(seed + 1), say)
        compare(run, whole)
        return done.total(), ", ".join(f"{count} {name}" for name, count in sorted(done.items()))

    def mutations() -> tuple[int, str]:
        say(f"damaging copies of a checkpoint: {faults.mutations} times")
        chance = random.Random(seed + 2)
        done = check_damages(whole, faults.mutations, folder / "copies", chance)
        resume_from_damaged(start, whole, processes, tree, folder, chance)
        return done.total(), ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))

    kinds = (("SIGKILL", faults.kills, kills), ("stop", faults.stops, stops), ("damage", faults.mutations, mutations))
    for fault, times, do in kinds:
        if times:
            try:
                yield Outcome(fault, *_with_held(do()))
            except Broken as error:
                yield Outcome(fault, times, False, str(error))


def _with_held(done: tuple[int, str]) -> tuple[int, bool, str]:
    times, note = done
    return times, True, note
