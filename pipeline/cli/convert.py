"""`vitstream convert`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream convert data/train --to mds --out data/train-mds"


class Format(StrEnum):
    """What can be converted to."""

    mds = "mds"


def convert(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A DATASET folder.", readable=False, show_default=False)
    ],
    to: Annotated[Format, typer.Option(help="The format: MosaicML's.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to make.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Writes the same samples, in the same order, in another format. vitstream index takes them back.

    MDS: columns image (a PIL image to StreamingDataset), key, and label or labels. Needs the extra: pip install
    'vitstream[mds]'. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 stopped by Ctrl-C or SIGTERM.
    """
    import sys

    from data_prep.mds import convert as mds
    from pipeline.cli.output import say
    from pipeline.dataset.quantities import human_bytes

    made = mds.convert(dataset, out, bar=sys.stderr.isatty() and not json)
    if json:
        say(mds.as_json(out, made))
        return
    what = f"{made.samples:,} images, {human_bytes(made.bytes)} in {made.shards:,} MDS shard{'s' * (made.shards != 1)}"
    say(f"{out}: {what}", *(["complete already: nothing to do"] if made.was_complete else []))
