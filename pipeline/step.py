"""One optimizer step over a global batch. Nothing here waits for the device (what DeepSpeed does is its own affair).

The loss of a step is the sum over all real samples of the global batch divided by their number, whatever the world
size, the accumulation, the padding and the holes. DeepSpeed averages gradients over ranks, so each rank's share is
scaled by the world size before backward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.clock import Part
from pipeline.config import Config
from pipeline.data.batch import MicroBatch
from pipeline.data.keyed import keyed
from pipeline.data.ledger import READ
from pipeline.data.mixing import mix_images, mixed_losses
from pipeline.distributed import World
from pipeline.loss import normalise, sample_losses
from pipeline.optim import finite
from pipeline.optim.groups import set_learning_rate

_DROPOUT = 5  # domain of the hash; order.py and augment.py use 1 to 4


@dataclass
class StepResult:
    """What a step leaves behind until the next flush, its floats on the device."""

    loss_sum: Tensor  # float32 []: this rank's sum over its samples
    grad_norm: Tensor  # float32 []: of the global gradient, before clipping; to be judged (optim/finite.py)
    rows: Tensor  # int64 [accounts touched, ROW]: the global batch's ledger rows; on the CPU


def train_step(
    engine: Any,
    config: Config,
    world: World,
    micro_batches: list[MicroBatch],
    rows: Tensor,
    lr: float,
    step: int,
    mark: Callable[[Part], None] = lambda part: None,
) -> StepResult:
    """Forward, backward and update for this rank's part of step `step` (counted from 1) at learning rate `lr`.

    `rows`, int64 [accounts touched, ROW] on the CPU, are the ledger's of the global batch. `mark` is told where a
    forward pass ends; what comes after it, the engine tells the same clock.
    """
    real = max(1, sum(row[READ] for row in rows.tolist()))
    set_learning_rate(engine.optimizer.param_groups, lr)

    shares = []
    for micro, batch in enumerate(micro_batches):
        seed_dropout(config, step, micro, world.rank)
        images = mix_images(batch.images, batch.mix) if batch.mix else batch.images
        logits = engine(normalise(images, model_dtype(config)))
        if batch.mix:
            losses = mixed_losses(logits, batch.labels, batch.mix, config.loss, config.label_smoothing)
        else:
            losses = sample_losses(logits, batch.labels, config.loss, config.label_smoothing)
        share = (losses * batch.weights).sum()
        mark("forward")
        engine.set_gradient_accumulation_boundary(micro == len(micro_batches) - 1)
        engine.backward(share * (world.size / real), scale_wrt_gas=False)
        shares.append(share.detach())
        if micro < len(micro_batches) - 1:
            engine.step()
    grad_norm = _norm_without_zero(engine)
    if grad_norm is not None:
        finite.mark(engine, grad_norm)
    engine.step()
    if grad_norm is None:
        grad_norm = torch.as_tensor(engine.get_global_grad_norm(), dtype=torch.float32, device=world.device)
    return StepResult(shares[0] if len(shares) == 1 else torch.stack(shares).sum(), grad_norm, rows)


def model_dtype(config: Config) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def seed_dropout(config: Config, step: int, micro: int, rank: int) -> None:
    """Keys dropout, of patches too, and stochastic depth by where we are: there is no random state to save."""
    noise = config.regularization
    if noise.dropout or noise.drop_path or noise.patch_dropout or config.model.foreign is not None:
        torch.manual_seed(int(keyed(config.seed, _DROPOUT, step, micro, rank)[0]) >> 1)


def _norm_without_zero(engine: Any) -> Tensor | None:
    """Norm of the averaged gradient at stage 0, which DeepSpeed clips but does not report; else None."""
    if engine.zero_optimization_stage() > 0:
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
