"""How fast a run has been, from its own files. Torch-free."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.run.beat import read_beats
from pipeline.run.directory import RunDirectory
from pipeline.run.slow_host import SlowHost, slow_host

_TAIL_BYTES: Final = 256 * 1024
_ATTEMPTS: Final = 5  # of which the longest phases count
_SKIPPED: Final = 2  # steps of an attempt whose times say nothing: kernels are chosen, workers start


@dataclass(frozen=True)
class Measured:
    """What the last steps, and the phases of the last attempts, took."""

    step: int | None = None  # the last one that is in the metrics
    attempt: int | None = None  # of these steps
    world_size: int | None = None
    step_s: float | None = None  # a mean, evaluations and saves left out
    images_per_s: float | None = None  # of all ranks
    data_wait: float | None = None  # share of the time
    longest_step_s: float | None = None
    longest_save_s: float | None = None  # for which training waited
    slow_host: SlowHost | None = None  # for which all others wait


def measured(run: RunDirectory) -> Measured:
    """What there is to tell; nothing where the run has not trained yet."""
    lines = last_steps(run.metrics)
    attempts = map(run.attempt, run.attempts()[-_ATTEMPTS:])
    longest = [beat.longest for attempt in attempts for beat in read_beats(attempt).values()]
    steps = [each["step"] for each in longest if "step" in each] + [line["step_s"] for line in lines]
    saves = [each["save"] for each in longest if "save" in each]
    found = Measured(longest_step_s=max(steps, default=None), longest_save_s=max(saves, default=None))
    if not lines:
        return found
    of_attempt = [line for line in lines if line["attempt"] == lines[-1]["attempt"]]
    used = of_attempt[_SKIPPED:] or of_attempt
    seconds = sum(line["step_s"] for line in used)
    return Measured(
        step=lines[-1]["step"],
        attempt=lines[-1]["attempt"],
        world_size=lines[-1]["world_size"],
        step_s=seconds / len(used),
        images_per_s=sum(line["images_per_s"] * line["step_s"] for line in used) / seconds if seconds else None,
        data_wait=sum(line["data_wait_s"] for line in used) / seconds if seconds else None,
        longest_step_s=found.longest_step_s,
        longest_save_s=found.longest_save_s,
        slow_host=slow_host(of_attempt),
    )


def last_steps(metrics: Path) -> list[dict[str, Any]]:
    """The last lines of metrics.jsonl that are steps, oldest first; of a long file only its end is read."""
    try:
        with metrics.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read()
    except OSError:
        return []
    whole = text[: text.rfind(b"\n") + 1].split(b"\n")[1 if size > _TAIL_BYTES else 0 :]
    found = []
    for line in whole:
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and "step_s" in value and "eval" not in value:
                found.append(value)
    return found
