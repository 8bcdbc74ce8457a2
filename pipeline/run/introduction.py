"""What a run says of itself before its first step."""

from collections.abc import Iterator

from pipeline.data.feed import TrainFeed
from pipeline.data.mosaic.order import LIMITS, MosaicFeed
from pipeline.launch.preflight import Prepared
from pipeline.launch.template import engine_notes
from pipeline.models.resolution import phases, told
from pipeline.optim.schedule import schedule_notes


def introduction(prepared: Prepared, feed: TrainFeed | MosaicFeed, ranks: int, total_steps: int) -> Iterator[str]:
    """What it is, and what one might not expect of it, a line each."""
    config, train = prepared.config, prepared.train
    if config.loader.name == "mosaic":
        yield LIMITS
    yield from prepared.notes
    yield from engine_notes(config, feed.accumulation)
    yield from schedule_notes(config.schedule, total_steps)
    done = total_steps - feed.steps
    sizes = told(phases(config, total_steps, done), done)
    each = f"{feed.accumulation} x {feed.batch} each"
    yield (
        f"{config.model.name} at {sizes}, {config.precision}, {config.zero}; batch "
        f"{config.batch_size} over {ranks} {'rank' if ranks == 1 else 'ranks'}, {each}; "
        f"{train.samples:,} samples in {len(train.classes)} classes, {total_steps:,} steps"
    )
