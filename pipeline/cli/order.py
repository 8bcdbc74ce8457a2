"""`vitstream order`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream order data/train --batch-size 4096 --step 1000 --world-size 8 --rank 3"


def order(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A DATASET folder.", show_default=False)],
    batch_size: Annotated[int, typer.Option(min=1, help="The run's global batch size.", show_default=False)],
    step: Annotated[
        int | None, typer.Option(min=1, help="Which step's keys; the first is 1.", show_default=False)
    ] = None,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks of the run.")] = 1,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Only this rank's part of the batch.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The run's seed.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="The run's epochs: its last step ends where they end.", show_default=False),
    ] = None,
    key: Annotated[str | None, typer.Option(help="When and where this sample is read.", show_default=False)] = None,
    epoch: Annotated[int, typer.Option(min=0, help="With --key: in which epoch; the first is 0.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Which samples a step reads, in order, or with --key, at which step, rank and slot a sample is read.

    The same as `train` with these settings: steps and keys are those of its metrics.jsonl. No image is read.
    Without --epochs the order goes on for ever: a run's last step may be partial, and reads fewer keys than shown.
    Exit codes: 0 done, 2 wrong usage or input.
    """
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.data.lookup import keys_of_step, place_of_key
    from pipeline.dataset.errors import UsageError
    from pipeline.dataset.manifest import read_manifest

    if (step is None) == (key is None):
        raise UsageError("order: takes either --step or --key")
    if batch_size < world_size:
        raise UsageError(f"--batch-size {batch_size} is smaller than --world-size {world_size}")
    if seed >= 2**63:
        raise UsageError(f"--seed {seed}: expected 0 to {2**63 - 1}, as in RUN.yaml")
    if rank is not None and rank >= world_size:
        raise UsageError(f"--rank {rank}: the ranks of --world-size {world_size} are 0 to {world_size - 1}")
    manifest = read_manifest(dataset)
    if step is not None:
        found = keys_of_step(dataset, manifest, batch_size, step, world_size, rank, seed, epochs)
        lines = found["keys"]
    else:
        found = place_of_key(dataset, manifest, batch_size, str(key), epoch, world_size, seed, epochs)
        lines = [f"epoch {epoch}: step {found['step']}, rank {found['rank']}, slot {found['slot']}"]
    say(*([dumps(found)] if json else lines))
