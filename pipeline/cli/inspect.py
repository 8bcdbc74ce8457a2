"""`vitstream inspect`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream inspect data"


def inspect(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="The dataset, or the folder of its train/ and val/.",
            readable=False,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for card.html and card.json. Default: DATASET itself.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Pictures on the page: a fair sample of so many.")] = 64,
    dedup: Annotated[
        Path | None, typer.Option(help="Folder that vitstream dedup made: shows its report.", readable=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what card.json says, as one JSON object.")] = False,
) -> None:
    """Makes a dataset's card: counts, classes, sizes, rejects, duplicates and pictures, on one page (card.html).

    The page needs no other file and no network; card.json has the same numbers. Exit codes: 0 done, 1 the dataset is
    damaged or the card cannot be written, 2 no dataset there.
    """
    import json as encoder
    import sys

    from data_prep.card import publish
    from pipeline.cli.output import say

    found = publish.inspect(dataset, out, pictures, dedup, bar=sys.stderr.isatty() and not json)
    say(*([encoder.dumps(found.body)] if json else publish.as_lines(found)))
