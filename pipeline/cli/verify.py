"""`vitstream verify`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream verify data/train"


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
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Audits a dataset to the last byte: hashes, tars, indexes, catalogue, every image decoded, every key once.

    Prints one line per finding, naming dataset, shard and key. Exit codes: 0 nothing found, 1 something found,
    2 no dataset there.
    """
    import os
    import sys

    from data_prep.audit import dataset as audit
    from pipeline.cli.output import say
    from pipeline.dataset.errors import WorkFailed

    count = workers or len(os.sched_getaffinity(0))
    report = audit.verify(dataset, count, bar=sys.stderr.isatty() and not json)
    if json:
        say(audit.as_json(report))
    elif report.findings:
        say(*map(str, report.findings))
    if report.findings:
        raise WorkFailed(f"{dataset}: {len(report.findings):,} findings")
    if not json:
        what = f"{report.samples:,} samples in {report.shards:,} shards"
        say(f"{dataset}: {what}: hashes, tars, indexes, catalogue and images agree, every key is there once")
