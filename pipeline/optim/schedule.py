"""The learning rate as a pure function of the step. Torch-free."""

import math

from pipeline.config import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """Learning rate of step `step`, counted from 1 to `total_steps`.

    Warm-up is linear, peak * step / warmup_steps, and reaches the peak at step `warmup_steps`. After it, with
    t = (step - warmup_steps) / (total_steps - warmup_steps) from 0 to 1:

        linear    end + (peak - end) * (1 - t)
        cosine    end + (peak - end) * (1 + cos(pi t)) / 2
        constant  peak
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    t = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    end = schedule.end_lr
    match schedule.name:
        case "linear":
            return end + (peak - end) * (1.0 - t)
        case "cosine":
            return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * t))
        case _:
            return peak
