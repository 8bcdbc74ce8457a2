"""`vitstream shard`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream shard photos/ --out data --size 256 --val-fraction 0.1"
WHAT = "Folder with a sub-folder per class; table (CSV, TSV, JSONL, Parquet); WebDataset tars; MDS folder; or the URL"
WHAT += " of one (s3://, gs://, https://)."
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", help=WHAT, show_default=False)]
Text = str | None
Number = int | None


def option(help: str, *names: str) -> typer.models.OptionInfo:
    """An option of which only the help has to be said."""
    return typer.Option(*names, help=help)


def shard(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The dataset to make, or to go on with.", show_default=False)],
    size: Annotated[Number, option("Pixels of the shorter side. Never enlarges. Default: keep the size.")] = None,
    quality: Annotated[Number, option("JPEG quality, 1 to 100. Default: 90.")] = None,
    reencode: Annotated[bool, option("Encode all anew, also JPEGs that could keep their bytes.", "--reencode")] = False,
    as_is: Annotated[bool, option("Keep the files' bytes; decode only to check.", "--as-is")] = False,
    check: Annotated[str, option("With --as-is: decode every image, or look only at its header.")] = "decode",
    val_fraction: Annotated[float, option("Share of images for OUT/val; the rest to OUT/train.")] = 0.0,
    labels: Annotated[Text, option("A table's label column, or several: `label` or `kind,colour`.")] = None,
    image: Annotated[Text, option("A table's column of paths, URLs or bytes.")] = None,
    key: Annotated[Text, option("A table's column that names each image. Default: its path.")] = None,
    classes: Annotated[Path | None, option("Text file of class names; line 1 is class 0.")] = None,
    where: Annotated[Text, option("Take only these: SQL over path, label, labels, bytes, ...")] = None,
    keep: Annotated[Path | None, option("Take only the keys in this list (of vitstream dedup).")] = None,
    per_class: Annotated[Number, option("Take at most this many of each class.")] = None,
    limit: Annotated[Number, option("Take at most this many, a fair sample.")] = None,
    subsets: Annotated[Text, option("Nested subsets, as views in OUT/subsets: `9M,30M,90M` or `0.1,0.5`.")] = None,
    seed: Annotated[int, option("Of the global shuffle.")] = 0,
    shard_size: Annotated[str, option("Bytes of a shard, about.")] = "512MB",
    workers: Annotated[Number, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    max_rejects: Annotated[str, option("Unusable images allowed: a number, or a share.")] = "1%",
    max_pixels: Annotated[Number, option("Larger images are rejected. Default: 100 million.")] = None,
    max_seconds: Annotated[int, option("An image that takes longer is rejected.")] = 60,
    task: Annotated[Text, option("Do one part of the work, `i/n`, on any machine; then vitstream finalize.")] = None,
    stop_after: Annotated[Text, option("Stop after `plan`, or after `stream` (pass 1).")] = None,
    json: Annotated[bool, option("Print the result as one JSON object, nothing else.", "--json")] = False,
) -> None:
    """Turns images into a verified, shuffled dataset of tar shards. Run again, it goes on.

    Exit codes: 0 done, 1 failed (what is done is kept), 2 wrong usage or input, 3 stopped by Ctrl-C or SIGTERM, or
    waiting for other tasks.
    """
    asked = dict(locals())
    import os
    import sys

    from data_prep import build, summary
    from data_prep.request import from_command_line
    from pipeline.cli.output import say

    request = from_command_line(asked)
    outcome = build.shard(request, workers or len(os.sched_getaffinity(0)), sys.stderr.isatty() and not json)
    say(*([summary.as_json(outcome)] if json else summary.as_lines(outcome)))
