"""How long a run is, in steps, samples, operations and hours. Arithmetic, torch-free."""

from dataclasses import dataclass
from itertools import accumulate

from pipeline.config import Config
from pipeline.data.feed import TrainFeed
from pipeline.launch.machines import Machines
from pipeline.models.architecture import train_flops
from pipeline.models.resolution import phases, steps_left


@dataclass(frozen=True)
class SizedPhase:
    """Steps with images of one size (RUN.yaml's `resolution`)."""

    image_size: int
    steps: int
    samples: int
    flops: int | None  # to train on one image; None where that is not known
    images_per_s: float  # of a rank


@dataclass(frozen=True)
class Length:
    """How long the run is."""

    samples: int  # read in all, repeats included
    epochs: float  # of all datasets' samples together
    steps: int
    batch_size: int
    last_batch: int  # samples of the last step
    ranks: int
    accumulation: int
    micro_batch: int
    images_per_s: float  # of a rank, on average
    assumed: bool  # whether that is our guess
    flops: int | None  # to train on one image, on average; None where that is not known
    hours: float  # at that rate
    gpu_hours: float
    phases: tuple[SizedPhase, ...]  # one after the other

    @property
    def most_images_per_s(self) -> float:
        """Of a rank, where images are smallest."""
        return max(phase.images_per_s for phase in self.phases)

    def steps_left(self, done: int, total: int) -> float:
        """Of a run of `total` steps, after so many, in steps that take as long as the last one.

        `total` is another than `steps` where the batch size was another: sizes end at shares of a run's steps.
        """
        scale = total / self.steps
        return steps_left(((phase.steps * scale, 1 / phase.images_per_s) for phase in self.phases), done)

    def at(self, done: int, total: int) -> SizedPhase:
        """To which the last of so many steps belongs; at the start, the first."""
        ends = accumulate(phase.steps * total / self.steps for phase in self.phases)
        return next((phase for phase, end in zip(self.phases, ends, strict=True) if done <= end), self.phases[-1])


def length_of(config: Config, classes: int, samples: int, feed: TrainFeed, machines: Machines) -> Length:
    """Of a run on so many samples."""
    found = _phases(config, classes, feed, machines)
    counted = [phase.flops * phase.samples for phase in found if phase.flops is not None]
    seconds = sum(phase.samples / phase.images_per_s for phase in found)
    return Length(
        samples=feed.total,
        epochs=feed.total / samples,
        steps=feed.steps,
        batch_size=feed.batch_size,
        last_batch=feed.count(feed.steps - 1),
        ranks=feed.world_size,
        accumulation=feed.accumulation,
        micro_batch=feed.batch,
        images_per_s=found[0].images_per_s if len(found) == 1 else feed.total / seconds,
        assumed=machines.images_per_s is None,
        flops=round(sum(counted) / feed.total) if len(counted) == len(found) else None,
        hours=seconds / feed.world_size / 3600,
        gpu_hours=seconds / 3600,
        phases=found,
    )


def _phases(config: Config, classes: int, feed: TrainFeed, machines: Machines) -> tuple[SizedPhase, ...]:
    found, first = [], 0
    for phase in phases(config, feed.steps):
        part = feed.part(first, phase.steps)
        flops = train_flops(config, classes, phase.image_size)
        samples = part.total - part.consumed
        found.append(SizedPhase(phase.image_size, phase.steps, samples, flops, machines.rate(flops)))
        first += phase.steps
    return tuple(found)
