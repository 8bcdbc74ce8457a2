"""What `vitstream chaos` prints: a line for what is under way, then a table."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

from pipeline.chaos.family import Launched
from pipeline.chaos.trial import Faults, Outcome, try_faults
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.launch.preflight import open_data


def report(
    run: Path, overrides: list[str], processes: int, counts: tuple[int, int, int], seed: int, folder: Path | None
) -> None:
    """Does it, in `folder` or a temporary one.

    Raises:
        UsageError: the configuration or the data cannot be used, or the folder is not empty.
        WorkFailed: something did not hold; its files are kept where `folder` was named.
    """
    config = load_config(run, overrides)
    open_data(config, processes)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"--folder: {folder} is not empty; name another")
    with tempfile.TemporaryDirectory(prefix="vitstream-chaos-") if folder is None else nullcontext(folder) as place:
        outcomes = []
        faults = Faults(*counts)
        for outcome in try_faults(config, processes, faults, Path(place).resolve(), seed, Launched.start, print):
            outcomes.append(outcome)
    print("\n".join(table(outcomes)))
    broken = [outcome for outcome in outcomes if not outcome.held]
    if broken:
        raise WorkFailed(f"{broken[0].fault}: {broken[0].note}", resumable=False)


def table(outcomes: list[Outcome]) -> list[str]:
    """Lines: fault, how often, whether all held, what was seen."""
    rows = [("fault", "times", "held", "seen")] + [
        (each.fault, str(each.times), "yes" if each.held else "NO", each.note) for each in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
