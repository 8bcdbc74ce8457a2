"""`vitstream shard`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

EXAMPLE = "Example: vitstream shard photos/ --out data --size 256 --val-fraction 0.1"


def shard(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folder with a sub-folder per class; table (CSV, TSV, JSONL, Parquet); WebDataset tars; MDS folder; or"
            " the URL of one (s3://, gs://, https://).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The dataset to make, or to go on with.", show_default=False)],
    size: Annotated[
        int | None, typer.Option(help="Pixels of the shorter side. Never enlarges. Default: keep the size.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="JPEG quality, 1 to 100. Default: 90.")] = None,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Encode all anew, also JPEGs that could keep their bytes.")
    ] = False,
    as_is: Annotated[bool, typer.Option("--as-is", help="Keep the files' bytes; decode only to check.")] = False,
    check: Annotated[str, typer.Option(help="With --as-is: decode every image, or its header.")] = "decode",
    val_fraction: Annotated[float, typer.Option(help="Share of images for OUT/val; the rest to OUT/train.")] = 0.0,
    labels: Annotated[
        str | None, typer.Option(help="A table's label column, or several: `label` or `kind,colour`.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="A table's column of paths, URLs or bytes.")] = None,
    key: Annotated[str | None, typer.Option(help="A table's column that names each image; default: its path.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file of class names; line 1 is class 0.")] = None,
    where: Annotated[str | None, typer.Option(help="Take only these: SQL over path, label, labels, bytes, ...")] = None,
    keep: Annotated[Path | None, typer.Option(help="Take only the keys in this list (of vitstream dedup).")] = None,
    per_class: Annotated[int | None, typer.Option(help="Take at most this many of each class.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take at most this many, a fair sample.")] = None,
    subsets: Annotated[
        str | None, typer.Option(help="Nested subsets, as views in OUT/subsets: `9M,30M,90M` or `0.1,0.5`.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the global shuffle.")] = 0,
    shard_size: Annotated[str, typer.Option(help="Bytes of a shard, about.")] = "512MB",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    max_rejects: Annotated[str, typer.Option(help="Unusable images allowed: a number, or a share.")] = "1%",
    max_pixels: Annotated[int | None, typer.Option(help="Larger images are rejected. Default: 100 million.")] = None,
    max_seconds: Annotated[int, typer.Option(help="An image that takes longer is rejected.")] = 60,
    task: Annotated[
        str | None, typer.Option(help="Do one part of the work, `i/n`, on any machine; end with vitstream finalize.")
    ] = None,
    stop_after: Annotated[str | None, typer.Option(help="Stop after `plan`, or after `stream` (pass 1).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Turns images into a verified, shuffled dataset of tar shards. Run again, it goes on.

    Exit codes: 0 done, 1 failed (what is done is kept), 2 wrong usage or input, 3 stopped by Ctrl-C or SIGTERM, or
    waiting for other tasks.
    """
    import os
    import sys

    from data_prep.sources.options import SourceOptions

    from data_prep import build, summary
    from data_prep.catalog.select import hash_of
    from data_prep.options import Options
    from data_prep.quantities import parse_bytes
    from data_prep.request import Request, Slice
    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError
    from pipeline.dataset.images import MAX_PIXELS

    if as_is and quality is not None:
        raise UsageError("--as-is keeps the bytes and --quality changes them: choose one")
    options = Options(
        size=size,
        quality=90 if quality is None else quality,
        as_is=as_is,
        check=_one_of("--check", check, ("decode", "header")),
        keep_small=not reencode,
        val_fraction=val_fraction,
        seed=seed,
        shard_size=parse_bytes(shard_size, "--shard-size"),
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        max_seconds=max_seconds,
        where=where,
        per_class=per_class,
        limit=limit,
        keep=None if keep is None else hash_of("--keep", keep),
        classes=None if classes is None else hash_of("--classes", classes),
        subsets=tuple(name.strip() for name in subsets.split(",")) if subsets else (),
    )
    request = Request(
        sources=tuple(sources),
        out=out,
        options=options,
        source_options=SourceOptions(labels=tuple(labels.split(",")) if labels else (), image=image, key=key),
        keep=keep,
        classes=classes,
        max_rejects=max_rejects,
        slice=None if task is None else Slice.parse(task),
        stop_after=None if stop_after is None else _one_of("--stop-after", stop_after, ("plan", "stream")),
    )
    outcome = build.shard(request, workers or len(os.sched_getaffinity(0)), sys.stderr.isatty() and not json)
    say(*([summary.as_json(outcome)] if json else summary.as_lines(outcome)))


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> Literal:  # type: ignore[valid-type]
    from pipeline.dataset.errors import UsageError

    if value not in allowed:
        raise UsageError(f"{option} {value!r}: expected {' or '.join(allowed)}")
    return value
