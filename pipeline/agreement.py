"""All ranks do a step, or none of them: they agree before each, over the CPU.

Each rank brings the ledger rows of its micro-batches, which have to be added up over all ranks anyway, and whether it
was asked to stop. If anybody was, nobody uses what it has read. So no rank is ever alone in a collective of gradients,
and a stop takes effect at the next step, with all steps saved that were done.

The sum is taken over the control group, once a rank has its data: hosts wait for each other there, as their devices
would inside the step. No device is waited for, so where the host runs ahead of it, this costs the device nothing.

A rank that waits for data cannot hear this question. It looks where the ranks meet whether a flag is up there, which
whoever is asked to stop raises at once, and gives up waiting.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.data.batch import MicroBatch
from pipeline.data.giving_up import GaveUp
from pipeline.data.ledger import ROW
from pipeline.distributed import World
from pipeline.run.stop_request import Asked, StopRequest


class Stopping(Exception):
    """The ranks have agreed to stop. All of them raise it, before the same step, or batch of an evaluation."""


@dataclass
class Taken:
    """What a rank has for a step, while all others have theirs."""

    micro_batches: list[MicroBatch]
    waits_s: list[float]  # that each took to come
    rows: Tensor  # int64 [accounts, ROW], on the CPU: the ledger's, of all ranks
    agreed_s: float  # that it took until all others had theirs, too


class Agreement:
    def __init__(self, world: World, stop: StopRequest) -> None:
        self._world, self._stop = world, stop
        stop.tell_others_by(world.raise_flag)

    def is_off(self, step: int) -> bool:
        """Whether somebody was asked to stop, after so many steps: what a loader asks while it waits."""
        return self._stop.asked(step) is not None or self._world.flag_is_up()

    def take(self, loader: Iterator[MicroBatch], number: int, accounts: int, step: int) -> Taken:
        """The next `number` micro-batches of a loader, once every rank has its own; `step` steps are done.

        Args:
            accounts: rows of each micro-batch: the accounts that the global batch touches.

        Raises:
            Stopping: on all ranks alike.
        """
        micro_batches, waits_s = [], []
        ballot = torch.zeros(1 + accounts * ROW, dtype=torch.int64)  # who wants to stop, then the rows
        rows, off = ballot[1:].view(accounts, ROW), False
        try:
            for _ in range(number):
                began = time.perf_counter()
                micro_batches.append(next(loader))
                waits_s.append(time.perf_counter() - began)
                rows += micro_batches[-1].rows
        except GaveUp:
            off = True
        if off or self._stop.asked(step):
            self._world.raise_flag()
            ballot[0] = 1
        began = time.perf_counter()
        with self._stop.heart.waiting():
            self._world.total(ballot)
        if ballot[0]:
            raise Stopping
        return Taken(micro_batches, waits_s, rows, time.perf_counter() - began)

    def each(self, loader: Iterator[MicroBatch], items: int, step: int) -> Iterator[MicroBatch]:
        """An evaluation's micro-batches, of which all ranks have as many. Raises Stopping, on all ranks alike."""
        for _ in range(items):
            self._stop.enter("evaluate")  # anew: each of them is a sign of life
            yield from self.take(loader, 1, 1, step).micro_batches

    def wait(self, is_done: Callable[[float], bool] | None, step: int) -> None:
        """Until all ranks are done; `is_done` waits so many seconds for it. Raises Stopping, on all ranks alike."""
        while True:
            self._stop.enter("save")  # anew: each round is a sign of life
            left = is_done is not None and not is_done(1.0)
            off = self._stop.asked(step) is not None
            with self._stop.heart.waiting():
                off, left = self._world.total(torch.tensor([int(off), int(left)])).tolist()
            if not left:
                return
            if off:
                raise Stopping

    def asked(self, step: int) -> Asked:
        """By whom, once all ranks have raised Stopping: what the first of them that knows says. Every rank calls it."""
        mine = self._stop.asked(step)
        everyones = self._world.all_gather(mine and vars(mine))
        first = next((Asked(**asked) for asked in everyones if asked), Asked("stop file", "by the file STOP", "step"))
        return first if first.after_step is None else replace(first, phase="step")
