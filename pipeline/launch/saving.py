"""What a run's checkpoints take, on the disk and in memory. Torch-free."""

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.models.architecture import parameters
from pipeline.optim.kinds import MOMENTS_OF


@dataclass(frozen=True)
class Saving:
    """Bytes of checkpoints. None: only building the model would tell."""

    each: int | None  # on the disk
    most: int | None  # of all that are kept, while another is written
    snapshot: int  # of one, in the main memory of a rank while it is written beside training; 0 where not known


def saving_of(config: Config, classes: int, steps: int, ranks: int) -> Saving:
    """Of a run of so many steps, on so many ranks, each of which writes an equal share."""
    count = parameters(config, classes)
    return Saving(None, None, 0) if count is None else saving_of_parameters(config, count, steps, ranks)


def saving_of_parameters(config: Config, count: int, steps: int, ranks: int) -> Saving:
    """The same for a model of so many parameters."""
    checkpoint = config.checkpoint
    values = 1 + len(MOMENTS_OF[config.optimizer.name]) + (config.ema is not None)  # the weight, moments, average; fp32
    each = 4 * values * count
    kept = checkpoint.keep_last + 1 + (steps // checkpoint.keep_every if checkpoint.keep_every else 0)
    made = -(-steps // checkpoint.every_steps)  # the last step's, too
    return Saving(each, each * min(kept, made), -(-each // ranks) if checkpoint.asynchronous else 0)
