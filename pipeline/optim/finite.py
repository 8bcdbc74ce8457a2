"""A step whose gradient is not finite is not applied. Decided on the device, alike on all ranks; nothing waits for it.

Whether any number of the global gradient is infinite or none shows in its norm, which every rank has before the update,
for clipping. torch's fused optimizers take a flag `found_inf`, made for gradient scaling: where it is 1, their kernel
leaves weights and moments as they are, and AdamW does not count the step. So all that is needed is to set that flag
from the norm, between DeepSpeed's norm and the update.

    stage 0       step.py takes the norm before DeepSpeed clips, and sets the flag
    stage 1 to 3  a hook of the inner optimizer sets it, before the update of each parameter group

A norm whose square is no float32 counts as infinite: at stage 3 DeepSpeed takes norms in float64, and would alone clip,
and apply, a gradient of 1e30 that overflows at all others.

DeepSpeed would look at the norm itself, on the host, in every step at stage 3 and with clipping. With the flag there is
no need: `trust_the_device` lets it go on. To the average of the weights (ema.py) such a step is one that moved nothing.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.optim.masters import inner


def trust_the_device() -> None:
    """Keeps DeepSpeed from asking the device, in the midst of a step, whether a norm is finite."""
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    for module in (stage_1_and_2, stage3):
        if not callable(getattr(module, "is_invalid_grad_norm", None)):
            raise AttributeError(f"{module.__name__} has no is_invalid_grad_norm: this is another DeepSpeed")
        module.is_invalid_grad_norm = _never


def watch(engine: Any) -> None:
    """From now on, steps of an engine with ZeRO are applied only if their gradient is finite."""
    if engine.zero_optimization_stage() > 0:
        zero = engine.optimizer
        inner(engine).register_step_pre_hook(lambda optimizer, *_: _mark(optimizer, zero._global_grad_norm))


def mark(engine: Any, norm: Tensor) -> None:
    """The same for one step of an engine without, of which `norm` (float32 []) is the gradient's."""
    _mark(inner(engine), norm)


def judged(norm: Tensor) -> Tensor:
    """float32 of any shape: global gradients' norms, infinite where a square is no float32; not finite: not applied."""
    norm = torch.as_tensor(norm, dtype=torch.float32)
    return norm.masked_fill(norm.square().isinf(), torch.inf)


def _mark(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    device = next(p.device for group in optimizer.param_groups for p in group["params"])  # the CPU's, if offloaded
    optimizer.found_inf = (~torch.isfinite(judged(norm))).to(device=device, dtype=torch.float32)  # type: ignore[attr-defined]


def _never(norm: Any) -> bool:
    return False
