"""A run's status as a person reads it."""

import time
from collections.abc import Iterator
from typing import Final

from pipeline.cluster.status import JobShown, Status
from pipeline.run.console import eta

_REASONS: Final = {
    "Dependency": "waits for the job before it",
    "Priority": "others come first",
    "Resources": "waits for nodes to become free",
    "BeginTime": "its time has not come",
    "DependencyNeverSatisfied": "the job that it waits for has failed: it never starts; cancel it",
    "JobHeldUser": "held by its user: scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "PartitionNodeLimit": "asks for more nodes than the partition allows",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
}


def as_lines(status: Status) -> list[str]:
    """One line a fact."""
    return [
        f"{status.run}: {status.state}" + (f" ({status.why})" if status.why else ""),
        *_jobs(status),
        *_attempt(status),
        *_progress(status),
        *_evidence(status),
        *(f"note     {note}" for note in status.notes),
    ]


def _jobs(status: Status) -> Iterator[str]:
    for job in status.jobs:
        yield f"job      {job.id} {job.state}{_why(job)}"


def _why(job: JobShown) -> str:
    said = f": {_REASONS.get(job.reason.partition(',')[0], job.reason)}" if job.reason else ""
    if job.start is not None:
        said += f"; may start {time.strftime('%d %b %H:%M', time.localtime(job.start))}"
    if job.nodes:
        said += f" on {job.nodes}"
    return said + (f", {eta(job.left_s)} until its limit" if job.left_s is not None else "")


def _attempt(status: Status) -> Iterator[str]:
    if status.attempt is not None:
        yield f"attempt  {status.attempt}" + (f" on {', '.join(status.hosts)}" if status.hosts else "")


def _progress(status: Status) -> Iterator[str]:
    if status.step is not None:
        of = "" if status.total_steps is None else f" of {status.total_steps:,}"
        rate = "" if status.images_per_s is None else f", {status.images_per_s:,.0f} images/s"
        wait = "" if status.data_wait is None else f", data wait {status.data_wait:.0%}"
        left = "" if not status.eta_s else f", {eta(status.eta_s)} left at that rate"
        yield f"step     {status.step:,}{of}{rate}{wait}{left}"
    if status.slow_host is not None:
        yield f"slow     {status.slow_host}"
    if status.checkpoint is not None:
        yield f"saved    step {status.checkpoint.step:,}, {eta(status.checkpoint.age_s)} ago"


def _evidence(status: Status) -> Iterator[str]:
    for rank in status.ranks:
        where = f"rank     {rank.rank} on {rank.host}: in {rank.phase} for {eta(rank.for_s)}"
        yield f"{where}, last beat {rank.silent_s:.0f} s ago; {rank.why}"
    if status.verdict is not None and status.state != "finished":
        yield f"verdict  attempt {status.verdict_of}: {status.verdict.cause}: {status.verdict.message}"
    for host, count in sorted(status.blamed.items()):
        avoided = ", and avoided" if host in status.excluded else ""
        yield f"blamed   {host}: {count} {'time' if count == 1 else 'times'}{avoided}"
