"""`vitstream submit`."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLE = "Example: vitstream submit --prep --tasks 64 --partition cpu -- photos/ --out data --size 256"


def submit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="-- SOURCE... --out OUT [OPTIONS]", help="All that vitstream shard takes.", show_default=False
        ),
    ],
    prep: Annotated[bool, typer.Option("--prep", help="Shard a corpus, in an array of jobs.")] = False,
    tasks: Annotated[int, typer.Option(min=1, max=1_000_000, help="Jobs of each array.")] = 16,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="At most so many at the same time.", show_default=False)
    ] = None,
    time: Annotated[str, typer.Option(help="Limit of each job; a task that reaches it is queued again.")] = "4:00:00",
    partition: Annotated[str | None, typer.Option(help="Default: the cluster's.", show_default=False)] = None,
    cpus_per_task: Annotated[int, typer.Option(min=1, help="Cores, and worker processes, of each job.")] = 4,
    mem: Annotated[str, typer.Option(help="Memory of each job.")] = "8G",
    account: Annotated[str | None, typer.Option(help="Whom to charge.", show_default=False)] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder of the jobs' logs. Default: OUT.logs")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script and the commands; submit nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Shards on a SLURM cluster: plan, an array of tasks, finalize. Submitted again, it goes on.

    Any other option of sbatch has a variable, which is heeded: SBATCH_QOS, SBATCH_CONSTRAINT, SBATCH_RESERVATION, ...
    Exit codes: 0 submitted, 1 refused by SLURM, 2 wrong usage, or no SLURM here.
    """
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.cluster import sbatch
    from pipeline.cluster.prep import Prep, as_bash
    from pipeline.cluster.prep import submit as submit_prep
    from pipeline.dataset.errors import UsageError

    if not prep:
        raise UsageError("submit: sends only --prep to SLURM in this version; train with: vitstream train RUN.yaml")
    asked = _parsed(arguments)
    chain = Prep(
        arguments=tuple(arguments),
        out=str(asked["out"]),
        max_rejects=asked["max_rejects"],
        tasks=tasks,
        concurrent=concurrent,
        resources=sbatch.Resources(time, cpus_per_task, mem, partition, account),
        logs=logs.absolute() if logs else Path(f"{Path(asked['out']).absolute()}.logs"),
    )
    if dry_run:
        lines = as_bash(chain)
        say(*([dumps({"bash": lines})] if json else lines))
        return
    ids = submit_prep(chain)
    if json:
        say(dumps({"jobs": ids, "out": chain.out, "logs": str(chain.logs)}))
        return
    each = ((job, ids[job.name]) for job in chain.jobs())
    say(*(f"{job.name:<9} job {number}" + (f", {tasks:,} tasks" if job.array else "") for job, number in each))
    say(f"watch: squeue -j {','.join(map(str, ids.values()))}", f"logs:  {chain.logs}")


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """The arguments as `vitstream shard` understands them: a mistake shows now, and not in a job's log."""
    from pipeline.cli.shard import shard
    from pipeline.dataset.errors import UsageError

    command = typer.Typer(rich_markup_mode=None)
    command.command(context_settings={"help_option_names": ["-h", "--help"]})(shard)
    asked = typer.main.get_command(command).make_context("vitstream submit --prep --", list(arguments)).params
    for name in ("task", "stop_after", "json"):
        if asked[name]:
            raise UsageError(f"submit --prep: leave out --{name.replace('_', '-')}, which is for each job to say")
    return asked
