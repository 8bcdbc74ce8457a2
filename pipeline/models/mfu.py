"""What a step of a run costs: model FLOPs utilisation, the share of the devices' peak that its images account for, and
how much is left. Torch-free.
"""

from pipeline.config import Config
from pipeline.models.architecture import train_flops
from pipeline.models.resolution import image_size, phases, sizes, steps_left


class Utilisation:
    """Of the steps of one run, each with the operations of its own image size."""

    def __init__(self, config: Config, classes: int, total_steps: int, peak: float | None) -> None:
        """`peak`: operations per second of all devices together; None where it is not known."""
        self._config, self._total_steps, self._peak = config, total_steps, peak
        self._flops = {size: train_flops(config, classes, size) for size in sizes(config)}

    def of(self, step: int, images_per_s: float) -> float | None:
        """At so many images per second of all devices together; None where operations or peak are not known."""
        flops = self._flops[image_size(self._config, step, self._total_steps)]
        return round(images_per_s * flops / self._peak, 4) if flops and self._peak else None

    def steps_left(self, done: int) -> float:
        """After so many, in steps that cost as much as the last one; all alike where the operations are unknown."""
        found = phases(self._config, self._total_steps)
        return steps_left(((phase.steps, self._flops[phase.image_size] or 1) for phase in found), done)
