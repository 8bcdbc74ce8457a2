"""`vitstream submit RUN.yaml`: a chain of jobs is queued. Torch-free."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.cluster import chain, queue, sbatch
from pipeline.cluster.chain_plan import ChainPlan
from pipeline.cluster.snapshot import snapshot
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.run.directory import NO_LOCKS, RunDirectory

_INSTEAD: Final = "train on this machine with `vitstream train RUN.yaml`, or see with --dry-run what would be submitted"
_MAY_PASS: Final = ("down, drained or reserved", "are busy", "not available now")  # a job would wait for it


@dataclass(frozen=True)
class Submitted:
    jobs: tuple[int, ...]
    start: str  # SLURM's own words on when and where, or why it cannot tell


def refuse_without_slurm() -> None:
    """Raises UsageError where nothing can be submitted."""
    if not shutil.which("sbatch"):
        raise UsageError(f"sbatch: not found, there is no SLURM here: {_INSTEAD}")


def submit(plan: ChainPlan) -> Submitted:
    """Queues the chain.

    Raises:
        UsageError: there is no SLURM, or the run is under way, or queued, already.
        WorkFailed: SLURM refused; nothing stays queued.
    """
    run = RunDirectory(Path(plan.job.run_dir))
    refuse_under_way(run)
    if (stop := run.stop_file.read()) is not None and stop.after_step is None:  # of a run that did not live to see it
        raise UsageError(f"{run.stop_file.path}: is there, and would stop the run at once; remove it")
    if plan.request.after is not None:
        refuse_lost(plan.request.after)
    start = try_out(plan)
    run.create()
    snapshot(plan.submission, plan.job, plan.config)
    try:
        ids = chain.queue_chain(plan.submission, plan.options, plan.variables, plan.estimate.chain)
    except BaseException:
        if not plan.submission.jobs():  # else one of them may be at its end still
            shutil.rmtree(plan.submission.path, ignore_errors=True)
        raise
    return Submitted(tuple(ids), start)


def refuse_under_way(run: RunDirectory) -> None:
    """Raises UsageError where jobs of the run are queued, or somebody trains it. Raises queue.NoAnswer."""
    try:
        found = [job for job in chain.jobs(run.path) if job.state.kind != "ended"]
    except queue.NoAnswer as error:
        if "is configured" in str(error):
            raise UsageError(f"{error}: {_INSTEAD}") from None
        raise
    if found:
        raise UsageError(
            f"{run.path}: {', '.join(map(str, found))} of this run are there already; stop them first: "
            f"vitstream stop {sbatch.quote(str(run.path))}"
        )
    if (owner := run.owner()) is not None and owner != NO_LOCKS:
        raise UsageError(f"{run.path} is in use by {owner}; stop it first: vitstream stop {run.path}")


def refuse_lost(after: int) -> None:
    """Raises UsageError for a job that will not end well any more. SLURM takes one that it does not know for done."""
    known = queue.details(after)
    if known is None:
        raise UsageError(f"--after {after}: SLURM knows no such job any more; if it ended well, leave --after out")
    if known.state.kind == "ended" and known.state.base not in ("COMPLETED", "COMPLETING"):
        raise UsageError(f"--after {after}: that job has ended, {known.state}; submit it again first")


def try_out(plan: ChainPlan) -> str:
    """What SLURM says about such a job: when it would start, and where. Raises WorkFailed where it refuses it."""
    kept = [each for each in plan.options if not each.startswith(("--dependency", "--kill-on-invalid-dep"))]
    done = sbatch.run(["--test-only", *kept, str(sbatch.script("train.sbatch"))], plan.variables)
    said = sbatch.said(done)
    if done.returncode and not any(words in said for words in _MAY_PASS):
        raise WorkFailed(f"sbatch: {said or f'ended with exit code {done.returncode}'}")
    return re.sub(r"^Job \d+ to start ", "", said)


def as_lines(plan: ChainPlan) -> list[str]:
    """What will be asked for, and what is expected, a line each, with where each estimate comes from."""
    slurm, job, found = plan.slurm, plan.job, plan.estimate
    unit = "GPU" if slurm.gpus_per_node else "task"
    each = ", ".join(option.removeprefix("--") for option in chain.resources(slurm) if not option.startswith("--n"))
    hours = "unknown" if found.hours is None else f"about {found.hours:,.1f}" if found.hours > 0.05 else "less than 0.1"
    used = "" if not plan.gpu_hours or plan.gpu_hours < 0.05 else f", {plan.gpu_hours:,.1f} GPU-hours"
    steps = "unknown" if found.steps is None else f"{found.steps:,} of {found.total_steps:,} are left"
    return [
        f"chain    {found.chain} jobs named {job.chain} ({found.chain_from})",
        f"each     {_many(job.nodes, 'node')} of {_many(job.tasks_per_node, unit)}: {each}",
        f"steps    {steps}",
        f"hours    {hours}{used} ({found.hours_from})",
        f"lead     SLURM warns {found.lead_s} s before a limit ({found.lead_from})",
        *(f"note     {note}" for note in plan.notes),
    ]


def _many(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def to_json(plan: ChainPlan) -> dict[str, Any]:
    return {
        "run_dir": plan.job.run_dir,
        "submission": str(plan.submission.path),
        "chain": plan.job.chain,
        "resources": list(chain.resources(plan.slurm)),
        "estimate": asdict(plan.estimate) | {"gpu_hours": plan.gpu_hours},
        "notes": list(plan.notes),
    }
