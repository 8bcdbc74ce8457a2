"""The image size of a step, a pure function of the configuration, the step and the run's length. Torch-free.

    resolution: [{image_size: s1, until: u1}, {image_size: s2, until: u2}, ...]

A run of T steps takes those from 1 to b1 at s1, from b1 + 1 to b2 at s2, and so on, with b = floor(u T + 1/2); what is
left it takes at `model.image_size`. The model's parameters are those of `model.image_size` all the while.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config import Config


@dataclass(frozen=True)
class Phase:
    """Steps of a run, one after the other, with images of one size."""

    image_size: int
    steps: int


def image_size(config: Config, step: int, total_steps: int) -> int:
    """Pixels a side of the images of step `step`, counted from 1 to `total_steps`."""
    below = (phase.image_size for phase in config.resolution if step <= _last_step(phase.until, total_steps))
    return next(below, config.model.image_size)


def phases(config: Config, total_steps: int, done: int = 0) -> tuple[Phase, ...]:
    """Those of the steps that follow the first `done`; none that has no step."""
    last = [*(_last_step(phase.until, total_steps) for phase in config.resolution), total_steps]
    sizes = [*(phase.image_size for phase in config.resolution), config.model.image_size]
    found, before = [], done
    for size, end in zip(sizes, last, strict=True):
        if end > before:
            found.append(Phase(size, end - before))
            before = end
    return tuple(found)


def steps_left(costs: Iterable[tuple[float, float]], done: int) -> float:
    """What is left of a run after so many steps, in steps that cost as much as the last one; at the start, the first.

    `costs`: of each phase of the whole run, its steps (rounded or not) and what one of them costs, in any unit.
    """
    left, end, of_last = 0.0, 0.0, None
    for steps, cost in costs:
        begin, end = end, end + steps
        left += max(0.0, end - max(done, begin)) * cost
        if of_last is None and done <= end:
            of_last = cost
    return left / of_last if of_last else 0.0


def sizes(config: Config) -> set[int]:
    """All that there are."""
    return {config.model.image_size, *(phase.image_size for phase in config.resolution)}


def told(found: tuple[Phase, ...], done: int = 0) -> str:
    """In words: `160 px to step 900, then 224 px`."""
    words, step = [], done
    for phase in found:
        step += phase.steps
        words.append(f"{phase.image_size} px to step {step:,}")
    return ", then ".join(words).rpartition(" to step ")[0]


def _last_step(until: float, total_steps: int) -> int:
    return math.floor(until * total_steps + 0.5)
