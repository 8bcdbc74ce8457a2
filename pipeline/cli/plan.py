"""`vitstream plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.launch.machines import Machines

EXAMPLE = "Example: vitstream plan run.yaml --nodes 8 --gpus-per-node 8 --memory 1TB"


def plan(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN.yaml", help="The run's configuration, or a preset's name.", show_default=False),
    ],
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine, as train takes it.", show_default=False)
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Default: slurm.nodes, or 1.", show_default=False)] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="Ranks of a node. Default: slurm's, or 1.", show_default=False)
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="A node's, as 512GB. Default for one node: this one's.", show_default=False),
    ] = None,
    images_per_s: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1e9, help="What a rank trains. Default: by --gpu and --mfu.", show_default=False),
    ] = None,
    gpu: Annotated[str, typer.Option(help="What each rank has: A100-40GB, A100, H100, H200 or B200.")] = "H100",
    mfu: Annotated[
        float | None,
        typer.Option(
            min=1e-3, max=1.0, help="Share of its peak that is used. Default: 0.4, a guess.", show_default=False
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of RUN.yaml; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a run will read and need: steps, bytes, requests, memory, cache; before anything starts.

    Computed from RUN.yaml and the datasets' manifests; no image is read, nothing is written. Of a preset whose data is
    not here, for as much data as it was published with.
    Exit codes: 0 done, 2 wrong usage or input, or a run that cannot work.
    """
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.config import load_config
    from pipeline.dataset.errors import UsageError
    from pipeline.launch.imagined import data_to_plan
    from pipeline.launch.mosaic import refuse
    from pipeline.launch.plan import make_plan
    from pipeline.launch.plan_lines import as_lines
    from pipeline.recipes import preset_path

    if nproc and (nodes or gpus_per_node):
        raise UsageError("plan: takes --nproc, or --nodes and --gpus-per-node")
    config = load_config(run if run.exists() else preset_path(str(run)) or run, set_ or [], elsewhere=True)
    refuse(config, "plan")
    slurm = None if nproc else config.slurm
    per_node = nproc or gpus_per_node or (slurm and (slurm.gpus_per_node or slurm.tasks_per_node)) or 1
    here = slurm is None and nodes in (None, 1)
    machines = _machines(nodes or (slurm.nodes if slurm else 1), per_node, here, memory, images_per_s, gpu, mfu)
    corpus, note = data_to_plan(config, machines.ranks)
    made, first = make_plan(config, corpus, machines), [f"{'preset':9}{note}"] if note else []
    say(*([dumps(made.to_json() | {"assumed": note})] if json else [*first, *as_lines(made)]))


def _machines(
    nodes: int, per_node: int, here: bool, memory: str | None, images_per_s: float | None, gpu: str, mfu: float | None
) -> "Machines":
    """Raises UsageError for what does not go together."""
    from pipeline.data.recipe import machine_memory_bytes
    from pipeline.dataset.errors import UsageError
    from pipeline.dataset.quantities import parse_bytes
    from pipeline.launch.gpus import GPUS, known_gpu
    from pipeline.launch.machines import Machines

    known_as = known_gpu(gpu)
    if known_as is None:
        raise UsageError(f"--gpu: {gpu} is not one of {', '.join(GPUS)}")
    if images_per_s and mfu:
        raise UsageError("plan: takes --mfu or --images-per-s")
    known = parse_bytes(memory, "--memory") if memory else machine_memory_bytes() if here else None
    return Machines(nodes, per_node, known, images_per_s, known_as, mfu)
