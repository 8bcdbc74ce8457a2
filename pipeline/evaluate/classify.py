"""Top-1 accuracy and loss over a whole dataset. Of several labels per image, any of them counts as right."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.config import Config
from pipeline.data.batch import MicroBatch
from pipeline.data.ledger import HOLES, READ, Account
from pipeline.data.sample import Hole
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.manifest import Manifest
from pipeline.distributed import World
from pipeline.loss import hits, normalise, sample_losses
from pipeline.step import model_dtype


@dataclass(frozen=True)
class Classification:
    samples: int
    holes: int
    accuracy: float
    loss: float
    unread: tuple[tuple[Account, Hole], ...] = ()  # this rank's holes

    @property
    def on(self) -> str:
        """What was measured on, in words."""
        if not self.holes:
            return f"on all {self.samples:,} validation samples"
        return f"on {self.samples:,} of {self.samples + self.holes:,} validation samples; the others are holes"


@torch.no_grad()
def classify(
    model: nn.Module, config: Config, world: World, manifest: Manifest, batches: Iterator[MicroBatch]
) -> Classification:
    """Evaluates on every rank's share and adds up, so each sample counts once whatever the number of ranks.

    Raises:
        WorkFailed: the samples seen are not the dataset's.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=world.device)  # correct, loss
    unread: list[tuple[Account, Hole]] = []
    seen = torch.zeros(2, dtype=torch.int64)  # read, holes; on the CPU, as the loader made them
    for batch in batches:
        logits = model(normalise(batch.images, model_dtype(config)))
        losses = sample_losses(logits, batch.labels, config.loss, label_smoothing=0.0)
        sums += torch.stack(
            [(hits(logits, batch.labels) * batch.weights).sum(), (losses * batch.weights).sum()]
        ).double()
        unread += batch.holes
        seen += batch.rows[0, [READ, HOLES]]
    model.train(was_training)
    correct, loss = world.all_reduce(sums).tolist()
    read, holes = world.all_reduce(seen.to(world.device)).tolist()
    if read + holes != manifest.samples:
        raise WorkFailed(f"evaluation saw {read + holes} samples of {manifest.samples}", cause="data")
    return Classification(read, holes, correct / max(1, read), loss / max(1, read), tuple(unread))
