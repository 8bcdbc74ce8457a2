"""Where a run is. Apart from the engine's tensors, this is all the state that a resume needs."""

from dataclasses import dataclass
from typing import Any

from pipeline.checkpoint.manifest import CheckpointManifest, step_name
from pipeline.config import Config
from pipeline.data.corpus import Corpus, fit_order, order_from_json
from pipeline.data.feed import TrainFeed
from pipeline.data.ledger import Ledger
from pipeline.data.mosaic.order import MosaicFeed, MosaicOrder
from pipeline.data.order import SampleOrder
from pipeline.data.stretches import Stretches, begun, resumed
from pipeline.dataset.errors import UsageError
from pipeline.distributed import World


@dataclass
class Progress:
    step: int  # optimizer steps done
    consumed: int  # samples used
    order: SampleOrder | MosaicOrder
    ledger: Ledger
    stretches: Stretches  # of equal batch sizes, so far

    @classmethod
    def begun(cls, config: Config, corpus: Corpus, world: World) -> "Progress":
        """Of a run that starts."""
        return cls(0, 0, _order(config, corpus, world), Ledger(), begun(config.batch_size))

    @classmethod
    def after(cls, manifest: CheckpointManifest, config: Config, corpus: Corpus, world: World) -> "Progress":
        """Of a run that goes on from a checkpoint.

        Raises:
            UsageError: what it holds of the order or the ledger is nothing that we have written, though its hash is
                right.
        """
        step, consumed = manifest.step, manifest.consumed
        try:
            stretches = resumed(manifest.stretches, step, consumed, config.batch_size)
            order = _order(config, corpus, world, manifest.data["order"], consumed)
            return cls(step, consumed, order, Ledger.from_json(manifest.data["ledger"]), stretches)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{step_name(step)}: the manifest's data.order, ledger or stretches cannot be gone on from "
                f"({type(error).__name__}: {error}): no vitstream of this version has written it; move it away"
            ) from None

    def feed(self, config: Config, corpus: Corpus, world: World) -> TrainFeed | MosaicFeed:
        """What this rank is to read from here on."""
        size, limit, consumed = config.batch_size, config.micro_batch_size, self.consumed
        if isinstance(self.order, MosaicOrder):
            to_come = (config.steps or 0) - self.step
            return MosaicFeed(self.order, size, world.rank, limit, consumed, config.epochs, to_come)
        total = config.total_samples(corpus.samples, self.step, consumed)
        return TrainFeed(self.order, size, world.size, world.rank, limit, consumed, total, mixes=config.augment.mixes)


def _order(
    config: Config, corpus: Corpus, world: World, kept: dict[str, Any] | None = None, consumed: int = 0
) -> SampleOrder | MosaicOrder:
    """The order of a run that starts, or, with what a checkpoint kept of it, goes on."""
    if config.loader.name == "mosaic":
        nodes = world.size // world.local_size
        return MosaicOrder.of(corpus.samples, config.seed, nodes, world.size, kept, consumed)
    return order_from_json(kept) if kept else fit_order(corpus, config.batch_size, config.seed)
