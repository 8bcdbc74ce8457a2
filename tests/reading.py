"""Readers and loaders over one dataset folder, for the tests."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Augment
from pipeline.data.batch import MicroBatch
from pipeline.data.corpus import Corpus, Member
from pipeline.data.feed import EvaluationFeed, Feed
from pipeline.data.loader import Loader
from pipeline.data.read import Reader
from pipeline.data.recipe import Recipe
from pipeline.data.sample import Hole, Sample
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.row import IndexRow


class DatasetReader:
    """One sample at a time."""

    def __init__(self, dataset: Path, manifest: Manifest) -> None:
        self.all = Reader(Corpus((Member(Location.of(dataset), manifest),)))

    def read(self, sample_id: int) -> Sample | Hole:
        return self.all.read([sample_id])[sample_id]

    def locate(self, sample_id: int) -> tuple[str, IndexRow]:
        return self.all.locate(sample_id)


def recipe_of(dataset: Path | str, feed: Feed, image_size: int, augment: Augment | None, **changes: Any) -> Recipe:
    """How a feed of this dataset is made; `augment` None is an evaluation."""
    location = Location.of(dataset)
    member = Member(location, read_manifest(location if location.is_remote else location.path))
    recipe = Recipe(
        corpus=Corpus((member,)),
        feed=feed,
        image_size=image_size,
        augment=augment,
        crop=0.875,
        cache=None,
        retry_s=5.0,
        memory_bytes=2**26,
        ahead=3,
        at_once=2,
        requests=2,
        threads=1,
        pixel_digest=False,
    )
    return replace(recipe, **changes)


def run_loader(recipe: Recipe, workers: int = 0, prefetch: int = 2) -> Iterator[MicroBatch]:
    """All of a loader's micro-batches, each in memory of its own."""
    loader = Loader(recipe, workers, prefetch, in_use=1, device=torch.device("cpu"))
    try:
        for batch in loader:
            for name in ("images", "labels", "weights"):
                setattr(batch, name, getattr(batch, name).clone())
            yield batch
    finally:
        loader.close()


def evaluation_feeds(samples: int, batch_size: int, world_size: int) -> list[EvaluationFeed]:
    """Every rank's."""
    return [EvaluationFeed(samples, batch_size, rank, world_size) for rank in range(world_size)]
