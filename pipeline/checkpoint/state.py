"""The engine's state as named slices: fp32 weights and both Adam moments, at ZeRO stages 0, 1 and 2.

DeepSpeed lays a parameter group out as one flat buffer and cuts it into equal partitions, one per rank. A slice is
the part of one parameter that falls into one rank's partition. Its tensors are views of the optimizer's own memory,
so the same slices serve to save (read them) and to restore (copy into them), with no communication: that is why any
world size and any stage can load what any other has written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)


@dataclass(frozen=True)
class Slice:
    """Elements [start, stop) of the flattened parameter `name`; `tensors` maps a kind to float32 [stop - start]."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    tensors: dict[str, Tensor]

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == torch.Size(self.shape).numel()


def slices_to_save(engine: Any, rank: int, world_size: int) -> list[Slice]:
    """What this rank writes: together, the ranks' slices cover every parameter exactly once."""
    if engine.zero_optimization_stage() == 0:
        return list(_replicated(engine, rank, world_size))
    return list(_partitioned(engine))


def slices_to_restore(engine: Any) -> list[Slice]:
    """What this rank holds and has to fill: its partition, or, without ZeRO, everything."""
    _create_moments(engine)
    if engine.zero_optimization_stage() == 0:
        return list(_replicated(engine, rank=0, world_size=1))
    return list(_partitioned(engine))


def optimizer_step(engine: Any) -> int:
    """Steps that Adam has taken: its bias correction depends on it."""
    states = [state for state in _torch_optimizer(engine).state.values() if "step" in state]
    return int(states[0]["step"]) if states else 0


def set_optimizer_step(engine: Any, step: int) -> None:
    for state in _torch_optimizer(engine).state.values():
        state["step"].fill_(step)


def overlap(start: int, stop: int, low: int, high: int) -> tuple[int, int]:
    """The part of [start, stop) inside [low, high); empty if the first is not below the second."""
    return max(start, low), min(stop, high)


def _partitioned(engine: Any) -> Iterator[Slice]:
    """Stages 1 and 2: this rank's partition of each group, by DeepSpeed's own offsets (which may be padded)."""
    zero = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    for group, flat in enumerate(zero.single_partition_of_fp32_groups):
        low = flat.numel() * torch.distributed.get_rank(zero.real_dp_process_group[group])
        flats = {WEIGHT: flat.detach()} | {m: zero.optimizer.state[flat][m] for m in MOMENTS}
        parameters = zip(zero.round_robin_bit16_groups[group], zero.round_robin_bit16_offsets[group], strict=True)
        for parameter, offset in parameters:
            start, stop = overlap(offset, offset + parameter.numel(), low, low + flat.numel())
            if start < stop:
                yield Slice(
                    names[id(parameter)],
                    tuple(parameter.shape),
                    start - offset,
                    stop - offset,
                    {kind: whole[start - low : stop - low] for kind, whole in flats.items()},
                )


def _replicated(engine: Any, rank: int, world_size: int) -> Iterator[Slice]:
    """Stage 0: every rank holds everything; the flat whole is cut evenly, so that ranks write equal shares."""
    parameters = dict(engine.module.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    share = -(-total // world_size)
    states = _torch_optimizer(engine).state
    offset = 0
    for name, parameter in parameters.items():
        start, stop = overlap(offset, offset + parameter.numel(), rank * share, (rank + 1) * share)
        if start < stop:
            wholes = {WEIGHT: parameter.detach()} | {m: states[parameter][m] for m in MOMENTS}
            yield Slice(
                name,
                tuple(parameter.shape),
                start - offset,
                stop - offset,
                {kind: whole.view(-1)[start - offset : stop - offset] for kind, whole in wholes.items()},
            )
        offset += parameter.numel()


def _torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def _create_moments(engine: Any) -> None:
    """Gives AdamW the state that it would make in its first step (torch/optim/adamw.py, `_init_group`)."""
    optimizer = _torch_optimizer(engine)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            device = parameter.device if group["fused"] else torch.device("cpu")
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format).detach(),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format).detach(),
            }
