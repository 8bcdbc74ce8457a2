"""The job that we are in, and its hosts, as SLURM tells them; a controller that is silent for a while stops nobody.

Torch-free.
"""

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster import queue
from pipeline.cluster.chain import chain_name
from pipeline.cluster.job import JobFile
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError

_TRIES, _PAUSE_S = 5, 5.0
_COMPLETING_S = 60.0  # KillWait, which is 30 s by default, and the clearing up


@dataclass(frozen=True)
class Allocation:
    job: int
    hosts: tuple[str, ...]  # in order of rank
    master: str  # the first one's address, as the others reach it

    @classmethod
    def ours(cls) -> "Allocation":
        """Raises NoAnswer where SLURM does not say which hosts we have."""
        nodes = os.environ["SLURM_JOB_NODELIST"]
        hosts = tuple(queue.hostnames(nodes))
        for attempt in range(_TRIES):
            try:
                return cls(int(os.environ["SLURM_JOB_ID"]), hosts, queue.addresses(hosts[0]).get(hosts[0], hosts[0]))
            except queue.NoAnswer:
                if attempt + 1 == _TRIES:
                    raise
                time.sleep(_PAUSE_S)
        raise AssertionError

    def slurm_answers(self) -> bool:
        """Whether its controller does: without it no ranks can be started."""
        with suppress(queue.NoAnswer):
            queue.jobs_with([self.job])
            return True
        return False

    def time_left_s(self) -> float | None:
        """Until the job's limit; None where there is none, or where nobody says."""
        with suppress(queue.NoAnswer):
            return next((job.left_s for job in queue.jobs_with([self.job])), None)
        return None


def is_preempted(job: int) -> bool:
    """Whether it has to make way: with a grace time SLURM tells the ranks only, and in its log nobody why."""
    with suppress(queue.NoAnswer):
        known = queue.details(job)
        return known is not None and known.preempted
    return False


def state_of(job: int) -> str | None:
    """What SLURM calls the end of an earlier job; None where it no longer knows.

    One that was cancelled may still save while the next has started: its end is waited for, if not for ever.
    """
    until = time.monotonic() + _COMPLETING_S
    with suppress(queue.NoAnswer):
        while (known := queue.details(job)) and known.state.base == "COMPLETING" and time.monotonic() < until:
            time.sleep(1.0)
        return known.state.base if known else None
    return None


def hosts_down(hosts: Sequence[str]) -> list[str]:
    """Those of these hosts that SLURM says have failed."""
    with suppress(queue.NoAnswer):
        return queue.hosts_in_state(hosts, ("DOWN", "FAIL"))
    return []


def job_by_hand(run_yaml: Path) -> JobFile:
    """What `submit` would have written, of a job that somebody queued with sbatch, from what sbatch was given.

    Raises:
        UsageError: what is wrong with the run's YAML; or SLURM has not said how many ranks there are.
    """
    config = load_config(run_yaml)
    asked = config.slurm
    nodes, tasks = _number("SLURM_JOB_NUM_NODES") or 1, _number("SLURM_NTASKS_PER_NODE")
    gpus = _number("SLURM_GPUS_PER_NODE") or _number("SLURM_GPUS_ON_NODE")
    each = tasks or gpus or (_number("SLURM_NTASKS") or nodes) // nodes
    if each < 1:
        raise UsageError("sbatch: give --nodes and --ntasks-per-node: one task per GPU")
    run_dir = config.run_dir.absolute()
    return JobFile(
        run_dir=str(run_dir),
        config=str(run_yaml),
        python=os.environ.get("VITSTREAM_PYTHON", "python3"),
        container=(),
        nodes=nodes,
        tasks_per_node=each,
        gpus_per_node=gpus,
        cpus_per_task=_number("SLURM_CPUS_PER_TASK"),
        lead_s=120,  # as train.sbatch asks
        chain=chain_name(run_dir),
        attempts=asked.attempts if asked else 50,
        without_progress=asked.without_progress if asked else 3,
        accept_changes=False,
        from_scratch=False,
    )


def _number(name: str) -> int | None:
    """Of a variable of SLURM's such as 8, 8(x2) or a100:8."""
    found = re.fullmatch(r"(?:[^:]*:)*(\d{1,6})(?:\(x\d+\))?", os.environ.get(name, ""))
    return int(found[1]) if found else None
