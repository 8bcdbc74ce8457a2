"""`vitstream train`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream train run.yaml --nproc 2 --set optimizer.lr=1e-3"


def train(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's configuration.", show_default=False)],
) -> None:
    """Train on this machine; the same command resumes."""
