"""`vitstream verify`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream verify data/train --decode 10%"


def verify(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="The dataset, or the folder of its train/ and val/.",
            readable=False,
            show_default=False,
        ),
    ],
    decode: Annotated[
        str, typer.Option(help="Images whose pixels are decoded too: all, about so many, or a share. All are hashed.")
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Which images these are.")] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again, to the same bytes, what can be had from the rest.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(help="With --repair: what the dataset was made of, for damaged shards; repeatable."),
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="With --source: the keep list it was made with.")] = None,
    classes: Annotated[Path | None, typer.Option(help="With --source: the class list it was made with.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Audits a dataset to the last byte: hashes, shards, indexes, catalogue, images decoded, every key once.

    Prints one line per finding, naming dataset, shard and key; after a repair, those that are left. Exit codes: 0
    nothing found, or nothing left, 1 something is, 2 no dataset there, or wrong usage.
    """
    import os
    import sys

    from data_prep.audit import dataset as audit
    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError, WorkFailed

    if (source or keep or classes) and not repair:
        raise UsageError("verify: --source, --keep and --classes are for --repair")
    count = workers or len(os.sched_getaffinity(0))
    bar = sys.stderr.isatty() and not json
    report = audit.verify(dataset, count, bar, decode, seed)
    lines: list[str] = []
    if repair and report.findings:
        from data_prep.audit.repair import Sources, mend

        report, lines = mend(dataset, report, Sources(tuple(source or ()), keep, classes), count, bar)
    if json:
        say(audit.as_json(report, lines))
    elif report.findings or lines:
        say(*lines, *map(str, report.findings))
    if report.findings:
        raise WorkFailed(f"{dataset}: {len(report.findings):,} finding{'s' * (len(report.findings) != 1)}")
    if not json:
        say(f"{dataset}: {audit.as_line(report)}")
