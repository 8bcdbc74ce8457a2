"""`vitstream logs`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream logs runs/b16 --rank 3 --follow"


def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, or its YAML file.", show_default=False)],
    attempt: Annotated[int | None, typer.Option(min=0, help="Default: the newest.", show_default=False)] = None,
    rank: Annotated[int, typer.Option(min=0, help="Whose.")] = 0,
    job: Annotated[bool, typer.Option("--job", help="What the newest job's script said, on a cluster.")] = False,
    lines: Annotated[int, typer.Option(min=0, max=1_000_000, help="At most so many, the last ones.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what is added, until the run has ended.")
    ] = False,
) -> None:
    """What a rank, or a job, of a run has printed.

    Exit codes: 0 done, 2 no such run, or nothing printed yet.
    """
    from contextlib import suppress

    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError
    from pipeline.launch import logs as of_runs
    from pipeline.launch.stop import find_run, is_under_way, may_start

    found = find_run(run)
    if job and (attempt is not None or rank):
        raise UsageError("logs: takes --job, or --attempt and --rank")

    def find() -> Path:
        return of_runs.job_log(found) if job else of_runs.rank_log(found, attempt, rank)

    path = of_runs.awaited(find, lambda: may_start(found)) if follow else find()
    said, end = of_runs.last_lines(path, lines)
    say(*said)
    if not follow:
        return

    def newest() -> Path:
        with suppress(UsageError):  # the next attempt has not said anything yet
            return find()
        return path

    with suppress(KeyboardInterrupt):
        for line in of_runs.follow(newest, path, end, lambda: is_under_way(found)):
            say(line)
