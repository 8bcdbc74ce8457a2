"""`vitstream shard`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream shard data/train data/train"


def shard(dataset: Annotated[Path, typer.Argument(metavar="DATASET", show_default=False)]) -> None:
    """Which samples a step reads, and at which step a sample is read."""
