"""What a loader makes, and of what: all that its workers need to know. Pickled to them once."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Augment, Cache, Config
from pipeline.data.corpus import Corpus, Member
from pipeline.data.feed import EvaluationFeed, Feed, TrainFeed

MEMORY_SHARE = 4  # a quarter of the machine's memory, for the compressed images of all its ranks


@dataclass(frozen=True)
class Recipe:
    """What becomes of a sample's bytes, and how they are got. The same for all workers of a rank."""

    corpus: Corpus
    feed: Feed
    image_size: int
    augment: Augment | None  # of training; else the centre `crop`
    crop: float
    cache: Cache | None
    retry_s: float
    memory_bytes: int  # of compressed samples, for the whole rank
    ahead: int  # items whose bytes are asked for before they are decoded
    at_once: int  # items
    requests: int  # under way, of one worker
    threads: int  # of one worker
    pixel_digest: bool
    known_holes: dict[tuple[int, int], str] = field(default_factory=dict)  # (epoch, id) -> cause

    @classmethod
    def of_training(
        cls, config: Config, corpus: Corpus, feed: TrainFeed, local_ranks: int, known_holes: dict[tuple[int, int], str]
    ) -> "Recipe":
        """A rank's part of the training data. `local_ranks` share this machine."""
        return _recipe(config, corpus, feed, config.augment, local_ranks, feed.accumulation, known_holes)

    @classmethod
    def of_evaluation(cls, config: Config, val: Member, rank: int, world_size: int, local_ranks: int) -> "Recipe":
        """A rank's part of the validation data."""
        feed = EvaluationFeed(val.manifest.samples, config.evaluate.batch_size, rank, world_size)
        return _recipe(config, Corpus((val,)), feed, None, local_ranks, 1, {})

    def room(self, workers: int) -> int:
        """Samples that one of so many workers may have in memory."""
        mean = self.corpus.bytes / max(1, self.corpus.samples)
        return int(self.memory_bytes / max(1, workers) / max(1.0, mean))


def _recipe(
    config: Config,
    corpus: Corpus,
    feed: Feed,
    augment: Augment | None,
    local_ranks: int,
    items_of_step: int,
    known_holes: dict[tuple[int, int], str],
) -> Recipe:
    loader = config.loader
    return Recipe(
        corpus=corpus,
        feed=feed,
        image_size=config.model.image_size,
        augment=augment,
        crop=config.evaluate.crop,
        cache=config.data.cache,
        retry_s=config.data.retry_s,
        memory_bytes=loader.memory or default_memory_bytes(local_ranks),
        ahead=loader.read_ahead,
        at_once=items_of_step + (0 if config.data.cache else loader.prefetch),  # a cache fetches them once more
        requests=loader.reads,
        threads=loader.threads,
        pixel_digest=loader.pixel_digest,
        known_holes=known_holes,
    )


def default_memory_bytes(local_ranks: int) -> int:
    """A rank's share of a quarter of this machine's memory, or of what its control group may use."""
    return machine_memory_bytes() // MEMORY_SHARE // max(1, local_ranks)


def machine_memory_bytes() -> int:
    """What processes here may use: of the machine, of the container or of the job, whichever is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
