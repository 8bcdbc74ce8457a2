"""`vitstream index`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream index tars/train-*.tar --out data/train --classes classes.txt"


def index(
    tars: Annotated[
        list[Path],
        typer.Argument(
            metavar="TAR",
            help="WebDataset tars, a folder of them, or an MDS folder. They stay where they are.",
            readable=False,
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The dataset to make, or to go on with.", show_default=False)],
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one per line; a number is a line's, from 0.", show_default=False)
    ] = None,
    max_rejects: Annotated[str, typer.Option(help="Unusable samples allowed: a number, or a share.")] = "1%",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Makes a dataset of shards that others made, without rewriting them. Run again, it goes on.

    Samples are read in the order of the tars as given. Exit codes: 0 done, 1 failed (what is done is kept), 2 wrong
    usage or input, 3 stopped by Ctrl-C or SIGTERM.
    """
    import os
    import sys

    from data_prep.adopt import adopt
    from pipeline.cli.output import say

    count = workers or len(os.sched_getaffinity(0))
    adopted = adopt.adopt(tars, out, classes, max_rejects, count, bar=sys.stderr.isatty() and not json)
    say(*([adopt.as_json(out, adopted)] if json else adopt.as_lines(out, adopted)))
