"""`vitstream train`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream train run.yaml --nproc 2 --set optimizer.lr=1e-3"


def train(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's configuration.", show_default=False)],
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes to start; by default one per GPU, or 1.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of RUN.yaml; repeatable.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin at step 0 although checkpoints exist; they are set aside.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although RUN.yaml now trains something else.")
    ] = False,
) -> None:
    """Train on this machine; the same command resumes.

    Without --nproc, and started by torchrun, Kubernetes or srun (RANK or SLURM_PROCID set), it is one rank of a run.
    Exit codes: 0 finished, 1 failed, 2 wrong usage or input, 3 stopped on SIGTERM or Ctrl-C with everything saved.
    """
    from pipeline.launch.environment import RankEnvironment, default_processes

    environment = None if nproc else RankEnvironment.read()
    if environment is None:
        from pipeline.launch.local import launch
        from pipeline.launch.preflight import prepare

        processes = nproc or default_processes()
        prepared = prepare(run, set_ or [], processes, from_scratch, accept_changes)
        launch(prepared, processes, from_scratch, accept_changes)
        return
    from pipeline.rank import run_rank

    run_rank(environment, run, set_ or [], from_scratch, accept_changes)
