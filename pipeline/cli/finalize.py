"""`vitstream finalize`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream shard photos/ --out data --task 0/2 && vitstream shard photos/ --out data --task 1/2"
EXAMPLE += " && vitstream finalize data"


def finalize(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="What the tasks' --out was.", readable=False, show_default=False)
    ],
    max_rejects: Annotated[
        str | None, typer.Option(help="Unusable images allowed. Default: what the first task was told.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Makes the dataset of what the tasks of vitstream shard --task i/n left in OUT; the manifest comes last.

    Exit codes: 0 done (also when it was done before), 1 shards are missing or too many images were rejected,
    2 wrong usage.
    """
    from data_prep import build, summary
    from pipeline.cli.output import say

    outcome = build.finalize(out, max_rejects)
    say(*([summary.as_json(outcome)] if json else summary.as_lines(outcome)))
