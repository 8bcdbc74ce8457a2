"""The loader of a run's training data: ours, at one image size after the other, or mosaicml-streaming's."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.data.corpus import Corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.giving_up import GiveUp
from pipeline.data.loader import Loader
from pipeline.data.mosaic.loader import MosaicLoader
from pipeline.data.mosaic.order import MosaicFeed
from pipeline.data.phased import PhasedLoader
from pipeline.data.recipe import Recipe
from pipeline.distributed import World
from pipeline.models.resolution import phases

TrainingLoader = Loader | PhasedLoader | MosaicLoader


def load_training(
    config: Config,
    corpus: Corpus,
    feed: TrainFeed | MosaicFeed,
    total_steps: int,
    world: World,
    run: Path,
    kept: dict[str, Any] | None,
    known_holes: dict[tuple[int, int], str],
    give_up: GiveUp,
    say: Callable[[str], None],
) -> TrainingLoader:
    """From where `feed` begins; with what a checkpoint kept of the order, and the holes that are known.

    `say` is told of every change of the image size.
    """
    if isinstance(feed, MosaicFeed):
        return MosaicLoader(config, corpus.members[0], feed, world, run, kept, known_holes, give_up)
    loader, done = config.loader, total_steps - feed.steps

    def make(first: int, steps: int, size: int) -> Loader:
        """Of so many steps of the feed, from its step `first` on."""
        if first:
            say(f"from step {done + first + 1:,} on, images are {size} px")
        recipe = Recipe.of_training(config, corpus, feed.part(first, steps), world.local_size, known_holes)
        recipe = replace(recipe, image_size=size)
        return Loader(recipe, loader.workers, loader.prefetch, feed.accumulation, world.device, give_up)

    makers, first = [], 0
    for phase in phases(config, total_steps, done):
        makers.append(partial(make, first, phase.steps, phase.image_size))
        first += phase.steps
    return PhasedLoader(makers) if len(makers) > 1 else makers[0]()
