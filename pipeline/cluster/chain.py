"""A run's chain: jobs of one name of which SLURM runs one at a time, so that a successor starts at once. Torch-free.

A job that is queued again instead is held for two minutes and more, and what came back of a node that died is the
same job; here each of them ends for good, and the next is another. No job names its nodes.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.cluster import queue, sbatch
from pipeline.cluster.hosts import expand, is_host_list
from pipeline.cluster.job import JobFile, Submission, read_job, submissions
from pipeline.cluster.site import Site
from pipeline.config_slurm import Slurm
from pipeline.dataset.errors import UsageError, WorkFailed

_LONGEST_NAME: Final = 40


def chain_name(run: Path) -> str:
    """Name of the jobs of the run in this folder: readable, and no other run's."""
    resolved = run.resolve()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", resolved.name)[:_LONGEST_NAME]
    number = hashlib.sha256(str(resolved).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"vitstream-{readable}-{number}"


def resources(slurm: Slurm) -> Iterator[str]:
    """What each job asks for, as options of sbatch."""
    yield f"--nodes={slurm.nodes}"
    yield f"--ntasks-per-node={slurm.tasks}"
    if slurm.gpus_per_node is not None:  # never per task: every rank sees all GPUs of its node
        yield f"--gpus-per-node={slurm.gpus_per_node}"
    for name in ("cpus_per_task", "mem", "time", "partition", "account", "qos", "constraint"):
        if (value := getattr(slurm, name)) is not None:
            yield f"--{name.replace('_', '-')}={value}"


def options(job: JobFile, slurm: Slurm, site: Site, submission: Submission, after: int | None) -> list[str]:
    """Of sbatch, for each job of a chain; `after`: a job that has to end well first.

    Raises:
        UsageError: the run's folder has a name that SLURM does not take.
    """
    dependency = "singleton" if after is None else f"afterok:{after},singleton"
    instead = "take another run_dir"
    return [
        *site.options,
        *resources(slurm),
        f"--job-name={job.chain}",
        f"--output={sbatch.file_pattern(submission.path, instead)}/job-%j.log",
        f"--chdir={job.run_dir}",
        f"--signal=B:USR1@{job.lead_s}",
        f"--dependency={dependency}",
        "--kill-on-invalid-dep=yes",
        "--open-mode=append",
        "--no-requeue",
        "--export=ALL",
    ]


def environment(submission: Submission, site: Site) -> dict[str, str]:
    """What train.sbatch is told by variables, besides which Python has vitstream."""
    setup = {"VITSTREAM_SETUP": str(site.setup)} if site.setup else {}
    return {"VITSTREAM_CODE": str(submission.code)} | setup


def queue_chain(submission: Submission, given: list[str], variables: dict[str, str], count: int) -> list[int]:
    """Submits so many jobs with these options, and records their ids.

    Raises:
        UsageError: there is no sbatch.
        WorkFailed: sbatch refused one, or an id cannot be recorded; those before it are cancelled.
    """
    ids: list[int] = []
    try:
        for _ in range(count):
            ids.append(sbatch.queue(given, [str(submission.script), str(submission.job_file)], variables))
            submission.add_job(ids[-1])
    except BaseException as error:
        sbatch.cancel(ids)
        if isinstance(error, WorkFailed) and ids:
            took = f"it took {len(ids)} of {count} jobs, which are cancelled; set slurm.chain to fewer"
            raise WorkFailed(f"{error}; {took}") from None
        if isinstance(error, OSError):
            raise WorkFailed(f"{submission.path}: cannot be written ({error.strerror})") from None
        raise
    return ids


def recorded(run: Path) -> list[int]:
    """Ids of all jobs that were ever queued for a run, in order."""
    return [job for submission in submissions(run) for job in submission.jobs()]


def jobs(run: Path) -> list[queue.Job]:
    """The run's jobs that SLURM still knows, by id: by their recorded ids, and this user's by their name.

    Raises:
        queue.NoAnswer: it is not here, or does not answer.
    """
    name = chain_name(run)
    ours = {job.id: job for job in queue.jobs_named(name)}
    # SLURM begins to count anew one day: a job is the run's by its name, too
    newest = submissions(run)[-1:]
    others = [job for submission in newest for job in submission.jobs() if job not in ours]
    names = {name, *(_name_of(submission) for submission in newest)}  # the folder may have been moved since
    ours |= {job.id: job for job in queue.jobs_with(others) if job.name in names}
    return [ours[number] for number in sorted(ours)]


def cancel_successors(run: Path, but: int | None = None, started: bool = False) -> list[int]:
    """Cancels all jobs of a run that wait, but one; nothing stays queued. Returns their ids.

    With `started`, also those that run: who has the run knows that they wait for it, as the next job does that starts
    while one that was cancelled still saves. Where SLURM does not say which are there, all that were recorded last are.

    Raises:
        queue.NoAnswer: it does not answer at all.
    """
    try:
        found = [job.id for job in jobs(run) if job.is_waiting or (started and job.is_running)]
    except queue.NoAnswer:
        found = [job for submission in submissions(run)[-1:] for job in submission.jobs()]
    found = [job for job in found if job != but]
    queue.cancel(found, state=None if started else "PENDING")
    return found


def cancel_waiting(run: Path) -> list[int]:
    """Cancels those jobs of a run that wait, and not one that has started meanwhile. Returns their ids.

    Raises:
        queue.NoAnswer: SLURM does not answer.
    """
    waiting = [job.id for job in jobs(run) if job.is_waiting]
    queue.cancel(waiting, state="PENDING")
    return waiting


def exclude(waiting: Iterable[int], hosts: Iterable[str]) -> None:
    """Keeps these jobs, which wait, off these hosts, besides those that they avoid already.

    Raises:
        queue.NoAnswer: SLURM does not answer, or refuses, as it does for a job that has started.
    """
    new = [host for host in dict.fromkeys(hosts) if is_host_list(host)]
    for job in waiting if new else ():
        queue.update(job, "ExcNodeList", ",".join(dict.fromkeys([*_avoided(queue.details(job)), *new])))


def hosts_left(waiting: int, hosts: Iterable[str]) -> int | None:
    """How many hosts a job that waits could have without these; None where it has gone. Raises queue.NoAnswer."""
    known = queue.details(waiting)
    if known is None or not known.partition:
        return None
    return len(set(queue.hosts_of(known.partition)) - set(_avoided(known)) - set(hosts))


def _avoided(job: queue.JobDetails | None) -> list[str]:
    if job is not None and job.excluded:
        with suppress(ValueError):
            return expand(job.excluded)
    return []


def _name_of(submission: Submission) -> str:
    with suppress(UsageError):
        return read_job(submission.job_file).chain
    return ""
