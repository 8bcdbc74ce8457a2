"""The loader of a run's training data: ours, or mosaicml-streaming's, as `loader.name` says."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.data.corpus import Corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.giving_up import GiveUp
from pipeline.data.loader import Loader
from pipeline.data.mosaic.loader import MosaicLoader
from pipeline.data.mosaic.order import MosaicFeed
from pipeline.data.recipe import Recipe
from pipeline.distributed import World


def load_training(
    config: Config,
    corpus: Corpus,
    feed: TrainFeed | MosaicFeed,
    world: World,
    run: Path,
    kept: dict[str, Any] | None,
    known_holes: dict[tuple[int, int], str],
    give_up: GiveUp,
) -> Loader | MosaicLoader:
    """From where `feed` begins; with what a checkpoint kept of the order, and the holes that are known."""
    if isinstance(feed, MosaicFeed):
        return MosaicLoader(config, corpus.members[0], feed, world, run, kept, known_holes, give_up)
    recipe = Recipe.of_training(config, corpus, feed, world.local_size, known_holes)
    loader = config.loader
    return Loader(recipe, loader.workers, loader.prefetch, feed.accumulation, world.device, give_up)
