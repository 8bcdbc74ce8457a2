"""What the parts of a step take, by the clock of whoever does the work: the GPU's, or the CPU's.

    data | forward backward reduce | ... | forward backward reduce | optimizer | flush evaluate save data | forward ...
         '--------------------- micro-batches -------------------'           end of the step

A mark says what has just ended; all time since the mark before is that part's, so the parts add up to the time that has
passed. On a GPU a mark is an event in the stream, which the device dates when it gets there, since the host runs ahead
of it. Nothing waits for one: they are read at a flush, which has waited for the device already.
"""

import time
from itertools import pairwise
from typing import Any, Final, Literal, get_args

import torch

Part = Literal["data", "forward", "backward", "reduce", "optimizer", "flush", "evaluate", "save"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


def stalls_of(seconds: dict[Part, float]) -> dict[str, float]:
    """Of what was before a step, or after the last one, the parts that are no step's; none that was not."""
    stalls = {"evaluate_s": seconds["evaluate"], "save_s": seconds["save"]}
    return {name: round(each, 6) for name, each in stalls.items() if each}


def columns_of(seconds: dict[Part, float]) -> dict[str, float]:
    """A step's parts as fields of metrics.jsonl: `step_s` is the sum of the five after it.

    What was written at a flush is time without data; an evaluation or a save before the step is not the step's.
    """
    five = {
        "data_s": seconds["data"] + seconds["flush"],
        "forward_s": seconds["forward"],
        "backward_s": seconds["backward"],
        "reduce_s": seconds["reduce"],
        "optimizer_s": seconds["optimizer"],
    }
    columns = {"step_s": sum(five.values())} | five
    return {name: round(each, 6) for name, each in columns.items()} | stalls_of(seconds)


class Clock:
    """Of one rank. Marks between a step's end and the next belong to the next."""

    def __init__(self, device: torch.device) -> None:
        self._time: _HostTime | _DeviceTime = _DeviceTime() if device.type == "cuda" else _HostTime()
        self._marks: list[tuple[Part | None, Any]] = []  # since the last read; the first is where it begins
        self._ends: list[int] = []  # of steps, as places in `_marks`

    def start(self) -> None:
        """What was before is no part of anything."""
        self._marks.append((None, self._time.now()))

    def mark(self, part: Part) -> None:
        """The time since the last mark was `part`'s."""
        self._marks.append((part, self._time.now()))

    def end_step(self) -> None:
        """With the update, a step is done."""
        self.mark("optimizer")
        self._ends.append(len(self._marks) - 1)

    def read(self) -> list[dict[Part, float]]:
        """Seconds of each part, for each step that has ended since the last call.

        Only after something else has waited for the device. Of a step that is under way, nothing is lost.
        """
        steps, begin = [], 0
        for end in self._ends:
            steps.append(self._sums(self._marks[begin : end + 1]))
            begin = end
        self._time.free([stamp for _, stamp in self._marks[:begin]])
        self._marks, self._ends = self._marks[begin:], []  # the last step's end is where the next begins
        return steps

    def rest(self) -> dict[Part, float]:
        """Seconds of each part since the last step ended, which no step will have. Waits for the device."""
        self._time.wait(self._marks[-1][1])
        return self._sums(self._marks[self._ends[-1] if self._ends else 0 :])

    def _sums(self, marks: list[tuple[Part | None, Any]]) -> dict[Part, float]:
        seconds = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in pairwise(marks):
            if part is not None:
                seconds[part] += self._time.between(before, after)
        return seconds


class _HostTime:
    def now(self) -> float:
        return time.perf_counter()

    def wait(self, stamp: float) -> None:
        """It has passed."""

    def between(self, before: float, after: float) -> float:
        return after - before

    def free(self, stamps: list[float]) -> None:
        """Numbers need no care."""


class _DeviceTime:
    """Events of the current stream. They are used again, so there are never more than one flush needs."""

    def __init__(self) -> None:
        self._free: list[torch.cuda.Event] = []

    def now(self) -> torch.cuda.Event:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self, stamp: torch.cuda.Event) -> None:
        stamp.synchronize()

    def between(self, before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        return before.elapsed_time(after) / 1000

    def free(self, stamps: list[torch.cuda.Event]) -> None:
        self._free += stamps


def time_reduction(engine: Any, clock: Clock) -> None:
    """From now on, `clock` tells an engine's backward pass from what it waits for of the gradients' reduction after it.

    DeepSpeed calls `_backward_epilogue` once per micro-batch, after torch's backward: it starts what remains of the
    reduction and has the stream wait for all of it.

    Raises:
        AttributeError: this DeepSpeed has no such method.
    """
    reduce = getattr(engine, "_backward_epilogue", None)
    if not callable(reduce):
        raise AttributeError("DeepSpeed's engine has no _backward_epilogue: this is another DeepSpeed")

    def timed() -> None:
        clock.mark("backward")
        reduce()
        clock.mark("reduce")

    engine._backward_epilogue = timed
