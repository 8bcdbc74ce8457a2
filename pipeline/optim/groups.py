"""Which parameters learn how fast, and which decay. Pure, of names and shapes; torch-free."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.config_optim import Optimizer
from pipeline.dataset.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

LR_SCALE: Final = "lr_scale"  # of a group of the optimizer: its learning rate is so many times the schedule's
_BLOCK: Final = re.compile(r"blocks\.(\d+)\.")
_BELOW: Final = ("backbone.", "patch_embed.", "pos_embed", "cls_token", "register_tokens")  # before the first block


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are updated alike."""

    names: tuple[str, ...]
    numbers: int  # in all of them together
    lr_scale: float  # of optimizer.lr
    decay_scale: float  # of optimizer.weight_decay
    weight_decay: float

    def __str__(self) -> str:
        """As a line of the table."""
        few = ", ".join(self.names) if len(self.names) <= 2 else f"{self.names[0]}, ..."
        tensors = "1 tensor" if len(self.names) == 1 else f"{len(self.names):,} tensors"
        scale, decay = f"lr x {self.lr_scale:.4g}", f"weight decay {self.weight_decay:.4g}"
        return f"{scale}, {decay}: {self.numbers:,} parameters in {tensors} ({few})"


def is_kernel(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter is the weight of a dense layer or a convolution.

    Biases, norms and scales have one side; learned inputs (the class token, registers, probes, position embeddings) are
    no `weight`, here and in transformers, but for an embedding's table.
    """
    owner, _, leaf = name.rpartition(".")
    return len(shape) >= 2 and leaf.endswith("weight") and not owner.endswith("position_embeddings")


def group(shapes: Mapping[str, Sequence[int]], optimizer: Optimizer) -> list[ParameterGroup]:
    """The groups of the parameters `shapes`, those of the highest learning rate first, kernels before all else.

    Raises:
        UsageError: a regular expression that matches nothing, or a layer decay of a model without `blocks.N`.
    """
    layers = _layer_scales(shapes, optimizer.layer_decay) if optimizer.layer_decay is not None else None
    found: dict[tuple[float, float], list[str]] = {}
    used = set()
    for name, shape in shapes.items():
        number = next((n for n, each in enumerate(optimizer.groups) if re.fullmatch(each.match, name)), None)
        lr, decay = 1.0, float(is_kernel(name, shape))
        if number is not None:
            used.add(number)
            chosen = optimizer.groups[number]
            lr, decay = chosen.lr, decay if chosen.weight_decay is None else chosen.weight_decay
        if layers is not None:
            lr *= layers[name]
        found.setdefault((lr, decay), []).append(name)
    for number, each in enumerate(optimizer.groups):
        if number not in used:
            what = "is matched by those before it" if _matches(each.match, shapes) else "matches the whole of no name"
            raise UsageError(f"optimizer.groups.{number}.match: {each.match} {what}; names: {_some(shapes)}")
    return [
        ParameterGroup(
            names=tuple(names),
            numbers=sum(math.prod(shapes[name]) for name in names),
            lr_scale=lr,
            decay_scale=decay,
            weight_decay=optimizer.weight_decay * decay,
        )
        for (lr, decay), names in sorted(found.items(), key=lambda each: (-each[0][0], -each[0][1]))
    ]


def parameter_groups(model: "nn.Module", optimizer: Optimizer) -> list[dict[str, Any]]:
    """The same as torch's optimizers take it, with LR_SCALE in each."""
    parameters = dict(model.named_parameters())
    return [
        {
            "params": [parameters[name] for name in each.names],
            "weight_decay": each.weight_decay,
            LR_SCALE: each.lr_scale,
        }
        for each in group(shapes_of(model), optimizer)
    ]


def shapes_of(model: "nn.Module") -> dict[str, tuple[int, ...]]:
    """Name -> shape of its parameters, in their order."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def set_learning_rate(groups: Sequence[dict[str, Any]], lr: float) -> None:
    """Of a step, for all groups of an optimizer."""
    for each in groups:
        each["lr"] = lr * each[LR_SCALE]


def table(groups: Sequence[ParameterGroup], most: int = 12) -> Iterator[str]:
    """A line for each group; of more than `most`, the first and the last."""
    lines = [str(each) for each in groups]
    if len(lines) <= most:
        yield from lines
        return
    yield from lines[: most // 2]
    yield f"... {len(lines) - most // 2 - most // 2:,} groups between these"
    yield from lines[-(most // 2) :]


def _layer_scales(shapes: Mapping[str, Sequence[int]], decay: float) -> dict[str, float]:
    """Name -> decay ** (layers above it), as MAE and BEiT have it (facebookresearch/mae, util/lr_decay.py).

    The embeddings, a hybrid's ResNet among them, are layer 0, block n is layer n + 1, and what comes after the last
    block, the head too, is the layer above it, which learns at the full rate.
    """
    blocks = {name: int(match[1]) for name in shapes if (match := _BLOCK.match(name))}
    if not blocks:
        raise UsageError("optimizer.layer_decay: this model has no parameters blocks.N...; use optimizer.groups")
    top = max(blocks.values()) + 2
    layer = {name: 0 if name.startswith(_BELOW) else blocks.get(name, top - 1) + 1 for name in shapes}
    return {name: decay ** (top - layer[name]) for name in shapes}


def _matches(match: str, shapes: Mapping[str, Sequence[int]]) -> bool:
    return any(re.fullmatch(match, name) for name in shapes)


def _some(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join([*list(shapes)[:3], "..."])
