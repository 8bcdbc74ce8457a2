"""What the ranks of a run without a model do: they read."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Augment, Cache
from pipeline.data import nursery
from pipeline.data.feed import TrainFeed
from pipeline.data.loader import Loader
from pipeline.data.order import Order
from tests.reading import recipe_of
from tests.soak.stream_truth import stretch_of


@dataclass(frozen=True)
class Life:
    """What all ranks of one attempt do."""

    folder: str
    dataset: str
    order: dict[str, int]
    augment: dict[str, Any]
    size: int  # of images, in pixels
    batch: int  # global
    limit: int  # samples at once on a rank
    world: int
    workers: int
    consumed: int  # where it begins
    total: int
    pause_s: float  # that a step takes beside reading
    cache: dict[str, Any] | None = None  # data.cache

    def line(self, rank: int) -> str:
        """What the nest is told."""
        return json.dumps(asdict(self) | {"rank": rank}) + "\n"

    def feed(self, rank: int) -> TrainFeed:
        """What a rank reads."""
        order, mixes = Order(**self.order), Augment(**self.augment).mixes
        return TrainFeed(order, self.batch, self.world, rank, self.limit, self.consumed, self.total, mixes)

    def live(self, rank: int) -> None:
        """Reads to the end."""
        nursery.start()
        feed = self.feed(rank)
        cache = Cache(**self.cache) if self.cache else None
        recipe = recipe_of(self.dataset, feed, self.size, Augment(**self.augment), pixel_digest=True, cache=cache)
        loader = Loader(recipe, self.workers, prefetch=2, in_use=feed.accumulation, device=torch.device("cpu"))
        with (Path(self.folder) / f"{rank}.jsonl").open("a") as file, torch.inference_mode():
            for step in range(feed.steps):
                stretch = stretch_of(feed, step, [next(loader) for _ in range(feed.accumulation)])
                file.write(json.dumps(stretch.to_json()) + "\n")
                file.flush()
                os.fsync(file.fileno())
                time.sleep(self.pause_s)
        loader.close()
