"""`vitstream dedup`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream dedup data/train --out dedup --dedup-against data/val"


def dedup(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A DATASET folder.", readable=False, show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for keep.parquet, pairs.parquet, report.json, report.html.", show_default=False)
    ],
    dedup_against: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation set, a DATASET folder: whatever is like its images goes; repeatable."),
    ] = None,
    distance: Annotated[
        int | None,
        typer.Option(help="Bits of the 64-bit perceptual hash in which near images may differ. Default: 4."),
    ] = None,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="Only images of equal bytes or equal pixels; none that are near.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Finds equal and nearly equal images, in a dataset and against evaluation sets, and lists what stays.

    DATASET itself is not changed: `vitstream view DATASET --keep DIR/keep.parquet --out D2` makes the dataset without
    them. Run again, it goes on. Exit codes: 0 done, 1 failed (what is done is kept), 2 wrong usage or input, 3 stopped
    by Ctrl-C or SIGTERM.
    """
    import os
    import sys

    from data_prep.dedup import dedup as verb
    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError

    if exact_only and distance is not None:
        raise UsageError("dedup: --exact-only looks for no near images; leave out --distance")
    bits = None if exact_only else 4 if distance is None else distance
    count = workers or len(os.sched_getaffinity(0))
    result = verb.dedup(dataset, out, dedup_against or (), bits, count, bar=sys.stderr.isatty() and not json)
    say(*([verb.as_json(out, result)] if json else verb.as_lines(out, result)))
