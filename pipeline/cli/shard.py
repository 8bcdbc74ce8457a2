"""`vitstream shard`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream shard photos/ --out data --size 256 --val-fraction 0.1"


def shard(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE", help="Folder with a sub-folder per class.", readable=False, show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="The dataset to make, or to go on with.", show_default=False)],
    size: Annotated[
        int | None, typer.Option(help="Pixels of the shorter side. Never enlarges. Default: keep the size.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="JPEG quality, 1 to 100. Default: 90.")] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Keep the files' bytes; decode only to check.")] = False,
    val_fraction: Annotated[float, typer.Option(help="Share of images for OUT/val; the rest to OUT/train.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the global shuffle.")] = 0,
    shard_size: Annotated[str, typer.Option(help="Bytes of a shard, about.")] = "512MB",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    max_rejects: Annotated[str, typer.Option(help="Unusable images allowed: a number, or a share.")] = "1%",
    max_pixels: Annotated[int | None, typer.Option(help="Larger images are rejected. Default: 100 million.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Turns folders of images into a verified, shuffled dataset of tar shards. Run again, it goes on.

    A SOURCE is a folder with a sub-folder per class. Exit codes: 0 done, 1 failed (what is done is kept),
    2 wrong usage or input, 3 stopped by Ctrl-C or SIGTERM.
    """
    import os
    import sys

    from data_prep import build, summary
    from data_prep.options import Options
    from data_prep.quantities import parse_bytes
    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError
    from pipeline.dataset.images import MAX_PIXELS

    if as_is and quality is not None:
        raise UsageError("--as-is keeps the bytes and --quality changes them: choose one")
    options = Options(
        size=size,
        quality=90 if quality is None else quality,
        as_is=as_is,
        val_fraction=val_fraction,
        seed=seed,
        shard_size=parse_bytes(shard_size, "--shard-size"),
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
    )
    count = workers or len(os.sched_getaffinity(0))
    bar = sys.stderr.isatty() and not json
    outcome = build.shard(sources, out, options, max_rejects, count, bar)
    say(*([summary.as_json(outcome)] if json else summary.as_lines(outcome)))
