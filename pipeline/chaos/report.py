"""What `vitstream chaos` prints: a line for what is under way, then a table."""

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.chaos.family import Launched
from pipeline.chaos.trial import Faults, Outcome, try_faults
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.launch.preflight import open_data


def report(
    run: Path, overrides: list[str], processes: int, faults: Faults, seed: int, folder: Path | None, as_json: bool
) -> None:
    """Does it, in `folder` or a temporary one, which stays where something did not hold.

    Raises:
        UsageError: the configuration or the data cannot be used, or the folder is not empty.
        WorkFailed: something did not hold.
    """
    config = load_config(run, overrides)
    open_data(config, processes)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"--folder: {folder} is not empty; name another")
    place = folder or Path(tempfile.mkdtemp(prefix="vitstream-chaos-"))
    say = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    outcomes = list(try_faults(config, processes, faults, place.resolve(), seed, Launched.start, say))
    print(json.dumps({"faults": [asdict(each) for each in outcomes]}) if as_json else "\n".join(table(outcomes)))
    broken = [outcome for outcome in outcomes if not outcome.held]
    if broken:
        raise WorkFailed(f"{broken[0].fault}: {broken[0].note}; all of it is in {place}", resumable=False)
    if folder is None:
        shutil.rmtree(place)


def table(outcomes: list[Outcome]) -> list[str]:
    """Lines: fault, how often, whether all held, what was seen."""
    rows = [("fault", "times", "held", "seen")] + [
        (each.fault, str(each.times), "yes" if each.held else "NO", each.note) for each in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
