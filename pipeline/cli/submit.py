"""`vitstream submit`."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLE = "Example: vitstream submit run.yaml --set slurm.nodes=8   |   vitstream submit --prep -- photos/ --out data"


def submit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN.yaml | -- SOURCE... --out OUT [OPTIONS]",
            help="The run's configuration; with --prep, all that vitstream shard takes.",
            show_default=False,
        ),
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of RUN.yaml; repeatable.")
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=1, metavar="JOB", help="A job that has to end well first.", show_default=False)
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although RUN.yaml now trains something else.")
    ] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin at step 0 although checkpoints exist; they are set aside.")
    ] = False,
    prep: Annotated[bool, typer.Option("--prep", help="Shard a corpus, in an array of jobs.")] = False,
    tasks: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Prep: jobs of each array. Default: 16", show_default=False)
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Prep: at most so many at the same time.", show_default=False)
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Prep: limit of each job. Default: 4:00:00", show_default=False)
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Prep. Default: the cluster's.", show_default=False)] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option(min=1, help="Prep: cores of each job. Default: 4", show_default=False)
    ] = None,
    mem: Annotated[str | None, typer.Option(help="Prep: memory of each job. Default: 8G", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(help="Prep: whom to charge.", show_default=False)] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Prep: folder of the jobs' logs. Default: OUT.logs", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script and the commands; submit nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")] = False,
) -> None:
    """Trains, or with --prep shards, on a SLURM cluster, in a chain of jobs. Submitted again, it goes on.

    What a run asks for is in its section `slurm`, and in the site's file. Any other option of sbatch has a variable,
    which is heeded: SBATCH_RESERVATION, ...
    Exit codes: 0 submitted, 1 refused by SLURM, 2 wrong usage, or no SLURM here.
    """
    of_prep = {"tasks": tasks, "concurrent": concurrent, "time": time, "partition": partition}
    of_prep |= {"cpus_per_task": cpus_per_task, "mem": mem, "account": account, "logs": logs}
    of_run = {"set": set_, "after": after, "accept_changes": accept_changes, "from_scratch": from_scratch}
    _refuse_others("is for a run, not for --prep" if prep else "is for --prep", of_run if prep else of_prep)
    if prep:
        _prep(arguments, {key: value for key, value in of_prep.items() if value is not None}, dry_run, json)
    else:
        _train(arguments, set_ or [], after, accept_changes, from_scratch, dry_run, json)


def _refuse_others(why: str, given: dict[str, Any]) -> None:
    from pipeline.dataset.errors import UsageError

    for name, value in given.items():
        if value:
            slurm = f"; a run has slurm.{name} in RUN.yaml" if name in ("time", "partition", "mem", "account") else ""
            raise UsageError(f"submit: --{name.replace('_', '-')} {why}{slurm}")


def _train(
    arguments: list[str],
    overrides: list[str],
    after: int | None,
    accept_changes: bool,
    from_scratch: bool,
    dry_run: bool,
    json: bool,
) -> None:
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.cluster.chain_plan import Request, plan_chain
    from pipeline.cluster.dry_run import as_bash
    from pipeline.cluster.sbatch import quote
    from pipeline.cluster.submit import as_lines, refuse_without_slurm, to_json
    from pipeline.cluster.submit import submit as submit_run
    from pipeline.dataset.errors import UsageError

    if len(arguments) != 1:
        raise UsageError("submit: takes one RUN.yaml; what is sharded stands behind --prep --")
    if not dry_run:
        refuse_without_slurm()
    plan = plan_chain(Request(Path(arguments[0]), tuple(overrides), after, accept_changes, from_scratch))
    if dry_run:
        lines = [*(f"# {line}" for line in as_lines(plan)), *as_bash(plan)]
        say(*([dumps(to_json(plan) | {"bash": lines})] if json else lines))
        return
    done = submit_run(plan)
    if json:
        say(dumps(to_json(plan) | {"jobs": done.jobs, "start": done.start}))
        return
    say(*as_lines(plan), *([f"start    {done.start}"] if done.start else []))
    say(f"jobs     {', '.join(map(str, done.jobs))}")
    run = quote(plan.job.run_dir)
    say(f"watch:   vitstream status {run}", f"stop:    vitstream stop {run}")


def _prep(arguments: list[str], given: dict[str, Any], dry_run: bool, json: bool) -> None:
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.cluster import sbatch
    from pipeline.cluster.prep import Prep, as_bash
    from pipeline.cluster.prep import submit as submit_prep

    asked = _parsed(arguments)
    given = {"tasks": 16, "time": "4:00:00", "cpus_per_task": 4, "mem": "8G"} | given
    names = ("time", "cpus_per_task", "mem", "partition", "account")
    logs = given.get("logs")
    chain = Prep(
        arguments=tuple(arguments),
        out=str(asked["out"]),
        max_rejects=asked["max_rejects"],
        tasks=given["tasks"],
        concurrent=given.get("concurrent"),
        resources=sbatch.Resources(**{name: given.get(name) for name in names}),
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
    say(*(f"{job.name:<9} job {number}" + (f", {chain.tasks:,} tasks" if job.array else "") for job, number in each))
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
