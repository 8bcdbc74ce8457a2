"""A run's steps and the samples that they use, where its batch size may have changed on the way. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Stretch(NamedTuple):
    """Steps of one batch size, from after `step`, when `consumed` samples had been used, to the next stretch."""

    step: int
    consumed: int
    batch_size: int

    def consumed_before(self, step: int) -> int:
        """Samples used before a step of it; steps count from 1."""
        return self.consumed + (step - 1 - self.step) * self.batch_size

    def place(self, consumed: int) -> tuple[int, int]:
        """(step, slot) of the sample that is used after `consumed` others."""
        steps, slot = divmod(consumed - self.consumed, self.batch_size)
        return self.step + 1 + steps, slot


Stretches = tuple[Stretch, ...]  # never empty, in order; the last goes on for ever


def begun(batch_size: int) -> Stretches:
    """Of a run that begins."""
    return (Stretch(0, 0, batch_size),)


def resumed(stretches: Stretches, step: int, consumed: int, batch_size: int) -> Stretches:
    """Of a run that goes on after `step`, with this batch size from there.

    A new stretch, too, where the last step was shorter than others: as if the run had ended there.
    """
    if stretches[-1].batch_size == batch_size and stretches[-1].consumed_before(step + 1) == consumed:
        return stretches
    return (*stretches, Stretch(step, consumed, batch_size))


def of_step(stretches: Stretches, step: int) -> Stretch:
    """The stretch that a step is in; steps count from 1."""
    return next(each for each in reversed(stretches) if each.step < step)


def end_of_step(stretches: Stretches, step: int) -> int:
    """Samples used after a step: the last of a stretch may be shorter than others."""
    stretch = of_step(stretches, step)
    ends = [each.consumed for each in stretches if each.step == step]
    return min([stretch.consumed_before(step + 1), *ends])


def of_sample(stretches: Stretches, consumed: int) -> Stretch:
    """The stretch in which a sample is used, after `consumed` others."""
    return next(each for each in reversed(stretches) if each.consumed <= consumed)


def from_json(body: Sequence[Sequence[int]] | None, batch_size: int) -> Stretches:
    """What a checkpoint keeps; older ones keep nothing: then the run has always had `batch_size`."""
    return tuple(Stretch(*each) for each in body) if body else begun(batch_size)
