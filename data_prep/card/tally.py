"""What is counted over all images of a dataset, wherever the numbers come from; tallies of its parts add up."""

from dataclasses import dataclass, field

import numpy as np

from data_prep.card.distribution import Distribution


@dataclass
class Tally:
    """Counts of one dataset's images.

    `classes`: int64 [classes], the images of each; one of several classes counts for every one of them.
    `aspects`: of floor(1000 * width / height).
    """

    classes: np.ndarray
    images: int = 0
    labels_per_image: dict[int, int] = field(default_factory=dict)
    widths: Distribution = field(default_factory=Distribution)
    heights: Distribution = field(default_factory=Distribution)
    aspects: Distribution = field(default_factory=Distribution)
    sizes: Distribution = field(default_factory=Distribution)  # bytes of an image
    landscape: int = 0
    square: int = 0
    portrait: int = 0

    def add(self, other: "Tally") -> None:
        """Takes in another's images, of the same classes."""
        self.classes = self.classes + other.classes
        for labels, count in other.labels_per_image.items():
            self.labels_per_image[labels] = self.labels_per_image.get(labels, 0) + count
        for name in ("widths", "heights", "aspects", "sizes"):
            getattr(self, name).add(getattr(other, name))
        for name in ("images", "landscape", "square", "portrait"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
