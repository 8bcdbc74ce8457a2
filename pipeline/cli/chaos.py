"""`vitstream chaos`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream chaos run.yaml --nproc 2 --kills 20"


def chaos(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's configuration.", show_default=False)],
    nproc: Annotated[int, typer.Option(min=1, help="Processes of the run that is disturbed.")] = 2,
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs while checkpoints are saved, pruned, loaded.")] = 10,
    stops: Annotated[int, typer.Option(min=0, help="SIGTERM, SIGUSR1, SIGINT or a STOP file, at random moments.")] = 6,
    mutations: Annotated[int, typer.Option(min=0, help="Ways in which a checkpoint's files are damaged.")] = 50,
    seed: Annotated[int, typer.Option(help="Other numbers, other moments.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Where it runs; by default a temporary one.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of RUN.yaml; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON object.")] = False,
) -> None:
    """Break a small run of RUN.yaml's data, loader and ZeRO stage on purpose, and see that nothing is lost.

    Takes a tiny model, minutes, and leaves RUN.yaml's own run alone.

    Exit codes: 0 all held, 1 something did not, 2 wrong usage or input.
    """
    from pipeline.chaos.report import report
    from pipeline.chaos.trial import Faults

    report(run, set_ or [], nproc, Faults(kills, stops, mutations), seed, folder, json)
