"""The fp32 weights that the optimizer updates on this rank, seen alike at every ZeRO stage, and their moments.

    stage 0     each parameter itself, on every rank
    stage 1, 2  of each parameter group: one flat tensor of all its parameters, cut into equal partitions, one per rank
    stage 3     every parameter on its own is cut into equal partitions, padded at the end; of each parameter group
                (or piece of one, `sub_group_size`), this rank's partitions lie one behind the other

These are DeepSpeed's own tensors: what is copied into them is what the next step starts from. None of this
communicates, but for `publish`, which does no more than DeepSpeed itself does at the end of every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.optim.kinds import ADAM, MOMENTS_OF

MOMENTS: Final = ADAM


@dataclass(frozen=True)
class Part:
    """Elements [start, stop) of the flattened parameter `name`, which lie in a master tensor from `offset` on."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Master:
    """One tensor that the optimizer updates."""

    tensor: Tensor  # float32: a parameter, or flat
    state: dict[str, Tensor]  # the optimizer's of it: `step` of AdamW, its moments, and what is kept beside them
    parts: tuple[Part, ...]  # what lies in it; padding belongs to none


def masters(engine: Any) -> list[Master]:
    """All of this rank's, in the order of the model's parameter groups."""
    layout = {0: _replicated, 1: _partitioned, 2: _partitioned, 3: _partitioned_each}[engine.zero_optimization_stage()]
    states = inner(engine).state
    return [Master(tensor, states[tensor], tuple(parts)) for tensor, parts in layout(engine)]


def moments(engine: Any) -> tuple[str, ...]:
    """What its optimizer keeps of each weight."""
    return MOMENTS_OF["sgd" if isinstance(inner(engine), torch.optim.SGD) else "adamw"]


def create_moments(engine: Any) -> None:
    """Gives the optimizer the state that it would make in its first step.

    AdamW's begins at zero (torch/optim/adam.py, `_init_group`). SGD's momentum begins as the first gradient
    (torch/optim/sgd.py), which is what comes of zeros, without dampening, as well.
    """
    kinds, fused = moments(engine), inner(engine).defaults["fused"]
    for master in masters(engine):
        if not master.state:
            if kinds == ADAM:
                device = master.tensor.device if fused else torch.device("cpu")
                master.state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            for moment in kinds:
                master.state[moment] = torch.zeros_like(master.tensor, requires_grad=False)


def optimizer_step(engine: Any) -> int:
    """Steps that AdamW has taken: its bias correction depends on it. SGD does not count: 0."""
    return next((int(master.state["step"]) for master in masters(engine) if "step" in master.state), 0)


def set_optimizer_step(engine: Any, step: int) -> None:
    for master in masters(engine):
        if "step" in master.state:
            master.state["step"].fill_(step)


@torch.no_grad()
def publish(engine: Any) -> None:
    """Makes the weights that the model works with equal to the masters, after these were set. Every rank calls it."""
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage in (1, 2):
        zero.update_lp_params()  # its partition on every rank, then an all-gather
    elif stage == 3:
        zero._partition_all_parameters()  # lets go of what has been gathered: it is gathered again where it is needed
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)


def _replicated(engine: Any) -> Iterator[tuple[Tensor, list[Part]]]:
    for name, parameter in engine.module.named_parameters():
        yield parameter, [Part(name, tuple(parameter.shape), 0, parameter.numel(), 0)]


def _partitioned(engine: Any) -> Iterator[tuple[Tensor, list[Part]]]:
    """By DeepSpeed's own offsets: there may be padding between parameters, too."""
    zero, names = engine.optimizer, _names(engine)
    for group, flat in enumerate(zero.single_partition_of_fp32_groups):
        low = flat.numel() * dist.get_rank(zero.real_dp_process_group[group])
        parts = []
        placed = zip(zero.round_robin_bit16_groups[group], zero.round_robin_bit16_offsets[group], strict=True)
        for parameter, offset in placed:
            start, stop = max(offset, low), min(offset + parameter.numel(), low + flat.numel())
            if start < stop:
                shape = tuple(parameter.shape)
                parts.append(Part(names[id(parameter)], shape, start - offset, stop - offset, start - low))
        yield flat, parts


def _partitioned_each(engine: Any) -> Iterator[tuple[Tensor, list[Part]]]:
    zero, names = engine.optimizer, _names(engine)
    rank = dist.get_rank(zero.dp_process_group)
    for parameters, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
        parts, offset = [], 0
        for parameter in parameters:
            share = parameter.partition_numel()
            start, stop = rank * share, min((rank + 1) * share, parameter.ds_numel)
            if start < stop:  # else all of this rank's partition is padding
                parts.append(Part(names[id(parameter)], tuple(parameter.ds_shape), start, stop, offset))
            offset += share
        yield flat, parts


def _names(engine: Any) -> dict[int, str]:
    return {id(parameter): name for name, parameter in engine.module.named_parameters()}


def inner(engine: Any) -> torch.optim.Optimizer:
    """torch's optimizer, inside ZeRO's where there is one."""
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer
