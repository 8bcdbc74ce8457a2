"""The sections `optimizer` and `schedule` of a run's YAML. Torch-free."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.config_tree import Positive, Section

_NORMS: Final = "scales each step by norms of whole parameters"
# ZeRO updates flat pieces of many parameters, cut anywhere: what is not elementwise would be another optimizer there.
_NOT_ELEMENTWISE: Final = {
    "lamb": _NORMS,
    "lars": _NORMS,
    "adafactor": "factors the second moment of each matrix into rows and columns",
    "muon": "makes the update of each matrix orthogonal",
    "shampoo": "preconditions each matrix from both sides",
    "soap": "rotates each matrix into a basis of its own",
}


def _known_optimizer(name: Any) -> Any:
    if not isinstance(name, str) or name in ("adamw", "sgd"):
        return name
    key = name.lower().removeprefix("fused").removeprefix("_")
    if key in _NOT_ELEMENTWISE:
        raise ValueError(
            f"{name} {_NOT_ELEMENTWISE[key]}, which ZeRO's flat partitions do not have: take adamw, or sgd"
        )
    hint = "; adamw is Adam with the weight decay of the ViT recipes" if key == "adam" else ""
    raise ValueError(f"{name} is not one of adamw, sgd{hint}")


Multiplier = Annotated[float, Field(ge=0)]


class Group(Section):
    """What is another for the parameters whose whole name a regular expression matches."""

    match: str
    lr: Multiplier = 1.0  # of optimizer.lr
    weight_decay: Multiplier | None = None  # of optimizer.weight_decay; by default 1 for kernels, 0 for all else

    @field_validator("match")
    @classmethod
    def _compiles(cls, match: str) -> str:
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f"{match!r} is no regular expression ({error})") from None
        return match


class Optimizer(Section):
    name: Annotated[Literal["adamw", "sgd"], BeforeValidator(_known_optimizer)] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # adamw: times the learning rate; sgd: into the gradient
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9  # sgd's
    groups: tuple[Group, ...] = ()  # the first that matches counts
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None  # of the learning rate, per block from the head down


class Schedule(Section):
    name: Literal["linear", "cosine", "constant", "rsqrt"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    timescale: Positive = 10_000  # steps; rsqrt's
    cooldown_steps: Annotated[int, Field(ge=0)] = 0  # at the end, down to end_lr; of rsqrt and constant

    @model_validator(mode="after")
    def _cools_down_once(self) -> "Schedule":
        if self.cooldown_steps and self.name in ("linear", "cosine"):
            raise ValueError(f"cooldown_steps: {self.name} comes down to end_lr by itself; leave it out")
        return self
