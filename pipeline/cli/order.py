"""`vitstream order`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream order data/train --batch-size 4096 --step 1000 --world-size 8 --rank 3"


def order(dataset: Annotated[Path, typer.Argument(metavar="DATASET", show_default=False)]) -> None:
    """Which samples a step reads, and at which step a sample is read."""
