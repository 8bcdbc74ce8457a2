"""`vitstream status`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream status runs/b16 --json"


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, or its YAML file.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a run is doing, why it waits, how far it is, and what ended it.

    Works on any machine that sees the run's folder; where SLURM is, its queue is asked, too.
    Exit codes: 0 finished, running or queued, 1 it needs you: failed, or its chain is gone, 2 no such run,
    3 stopped on request: nothing is queued, and the same command goes on. Made for cron.
    """
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.cluster.status import status_of
    from pipeline.cluster.status_lines import as_lines
    from pipeline.launch.stop import find_run

    found = status_of(find_run(run))
    say(*([dumps(found.to_json())] if json else as_lines(found)))
    raise typer.Exit(found.exit_code)
