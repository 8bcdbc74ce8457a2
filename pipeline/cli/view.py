"""`vitstream view`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream view data/train --out data/train-9M --first 9M"


def view(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A DATASET folder.", readable=False, show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The view to make, a dataset too.", show_default=False)],
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Only samples whose keys are listed: keep.parquet of vitstream dedup, a CSV with a column key, or text"
            " with a key per line.",
            show_default=False,
        ),
    ] = None,
    first: Annotated[
        str | None, typer.Option(help="Only the first: 9M, 30000, or a share, 10% or 0.1.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Makes a dataset of some of another's samples, without copying them: links to its shards, and what is listed.

    A shard's order is kept. DATASET has to stay where it is. Exit codes: 0 done, 1 failed, 2 wrong usage or input.
    """
    from data_prep import views
    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError
    from pipeline.dataset.manifest import read_manifest

    if (keep is None) == (first is None):
        raise UsageError("view: takes either --keep or --first")
    if keep is not None:
        made = views.keep_view(dataset, keep, out)
    else:
        count = views.parse_count(str(first), read_manifest(dataset).samples, "--first")
        made = views.prefix_view(dataset, count, out)
    say(*([views.as_json(out, made)] if json else views.as_lines(out, made)))
