"""The learning rate as a pure function of the step. Torch-free."""

import math

from pipeline.config_optim import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """Learning rate of step `step`, counted from 1 to `total_steps`.

    Warm-up is linear, peak * step / warmup_steps, and reaches the peak at step `warmup_steps`. After it, with
    t = (step - warmup_steps) / (total_steps - warmup_steps) from 0 to 1:

        linear    end + (peak - end) * (1 - t)
        cosine    end + (peak - end) * (1 + cos(pi t)) / 2
        constant  peak
        rsqrt     peak / sqrt(1 + (step - warmup_steps) / timescale)

    rsqrt is that of "Scaling Vision Transformers" (arXiv 2106.04560, section 3.5; big_vision, utils.py). It does not
    know when the run ends, and constant does not either; in the last `cooldown_steps` they come down linearly:

        end + (rate - end) * (total_steps - step) / cooldown_steps

    So a run that is made longer repeats only its cool-down.
    """
    rate = _before_cooldown(schedule, peak, step, total_steps)
    left = total_steps - step
    if left >= schedule.cooldown_steps:
        return rate
    end = min(schedule.end_lr, rate)  # a cool-down never goes up
    return end + (rate - end) * left / schedule.cooldown_steps


def schedule_notes(schedule: Schedule, total_steps: int) -> list[str]:
    """What one might not expect of a schedule in a run of so many steps, a line each."""
    warmup, cooldown = schedule.warmup_steps, schedule.cooldown_steps
    if warmup > total_steps:
        why = "the learning rate never gets to optimizer.lr"
        return [f"schedule.warmup_steps: {warmup:,} are more than the run's {total_steps:,} steps: {why}"]
    if warmup + cooldown > total_steps:
        both = f"{warmup:,} warmup_steps and {cooldown:,} cooldown_steps"
        return [f"schedule: {both} are more than the run's {total_steps:,} steps: it cools down before it is warm"]
    return []


def _before_cooldown(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    since = step - schedule.warmup_steps
    if since <= 0:
        return peak * step / schedule.warmup_steps
    t = since / max(1, total_steps - schedule.warmup_steps)
    end = schedule.end_lr
    match schedule.name:
        case "linear":
            return end + (peak - end) * (1.0 - t)
        case "cosine":
            return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * t))
        case "rsqrt":
            return peak / math.sqrt(1.0 + since / schedule.timescale)
        case _:
            return peak
