"""How long a run will take, how many jobs that are, and how early SLURM has to warn. Pure arithmetic; torch-free."""

import math
from dataclasses import dataclass
from typing import Final

from pipeline.launch.length import SizedPhase
from pipeline.launch.machines import DEFAULT_GPU, DEFAULT_MFU
from pipeline.launch.plan import Plan
from pipeline.run.measured import Measured

LEAST_JOBS, MOST_JOBS = 3, 50
_SPARE_JOBS: Final = 2  # for what is lost with a node, or to others
_LEAST_LEAD_S, _LEAD_OF_THE_UNKNOWN_S = 60, 120
_DISK_BYTES_PER_S: Final = 200e6  # of a node, where nothing was measured


@dataclass(frozen=True)
class Estimate:
    """Each with where it comes from, in words."""

    steps: int | None  # that are left
    total_steps: int | None
    hours: float | None
    hours_from: str
    lead_s: int
    lead_from: str
    chain: int
    chain_from: str


def estimate(
    plan: Plan | None,
    total_steps: int | None,
    done: int,
    measured: Measured,
    ranks: int,
    nodes: int,
    has_gpus: bool,
    limit_s: int,
    asked_chain: int | None,
) -> Estimate:
    """Of a run of which so many steps are done.

    Args:
        plan: None where none can be made.
        total_steps: of the whole run; None where that is not known yet.
        has_gpus: a plan's rate is a GPU's.
        limit_s: of each job; 0: none.
        asked_chain: jobs that the user wants.
    """
    steps = None if total_steps is None else max(0, total_steps - done)
    last = None if plan is None else plan.length.at(done, total_steps or plan.length.steps)
    step_s, hours_from = _step(plan, last, measured, ranks, has_gpus)
    alike = steps if plan is None or total_steps is None else plan.length.steps_left(done, total_steps)
    hours = None if alike is None or step_s is None else alike * step_s / 3600
    lead_s, lead_from = _lead(plan, measured, step_s, nodes)
    chain, chain_from = _chain(hours, limit_s, asked_chain)
    return Estimate(steps, total_steps, hours, hours_from, lead_s, lead_from, chain, chain_from)


def _step(
    plan: Plan | None, last: SizedPhase | None, measured: Measured, ranks: int, has_gpus: bool
) -> tuple[float | None, str]:
    """Seconds of a step of the size of the last one, as far as anything is known."""
    if measured.step_s is not None and measured.world_size == ranks:
        return measured.step_s, f"measured in attempt {measured.attempt}"
    if plan is None or last is None:
        return None, "the data is not there yet"
    if not has_gpus:
        return None, "nobody knows how fast these machines are before the first start"
    rate = last.images_per_s * plan.length.ranks
    return plan.length.batch_size / rate, f"at {DEFAULT_MFU:.0%} of an {DEFAULT_GPU}'s peak, at most"


def _lead(plan: Plan | None, measured: Measured, step_s: float | None, nodes: int) -> tuple[int, str]:
    """Seconds from the warning to the end: three times what it takes to end a step, and to save."""
    if measured.longest_step_s is not None and measured.longest_save_s is not None:
        longest = measured.longest_step_s + measured.longest_save_s
        return max(_LEAST_LEAD_S, _with_room(longest)), "three times its longest step and save so far"
    if plan is None or plan.saving.each is None:
        return _LEAD_OF_THE_UNKNOWN_S, "nothing is known yet"
    save_s = plan.saving.each / nodes / _DISK_BYTES_PER_S
    longest = (measured.longest_step_s or step_s or 0.0) + save_s
    source = f"three times a step and a save of {_DISK_BYTES_PER_S / 1e6:.0f} MB/s a node"
    return max(_LEAD_OF_THE_UNKNOWN_S, _with_room(longest)), source


def _with_room(longest_s: float) -> int:
    return math.ceil(3 * longest_s) + 30


def _chain(hours: float | None, limit_s: int, asked: int | None) -> tuple[int, str]:
    if asked is not None:
        return asked, "slurm.chain"
    if hours is None or not limit_s:
        return LEAST_JOBS, "the least"
    needed = math.ceil(hours * 3600 / limit_s) + _SPARE_JOBS
    if needed > MOST_JOBS:
        return MOST_JOBS, f"the most, of about {needed:,} that it takes: submit again when they are through"
    if needed < LEAST_JOBS:
        return LEAST_JOBS, "the least"
    return needed, f"{needed - _SPARE_JOBS} by its hours, and {_SPARE_JOBS} for what may happen"
