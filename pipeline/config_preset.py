"""`preset`: where a recipe is from and what to expect of it. It trains nothing. Torch-free."""

from typing import Any, Literal

from pydantic import Field

from pipeline.config_tree import Positive, Section


class Preset(Section):
    title: str
    source: str  # paper, table, code
    command: str
    expected: str  # published result
    verb: Literal["train", "finetune"] = "train"
    differs: tuple[str, ...] = ()  # from the source, a line each
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict)  # key -> the values that the source tries
    dataset: str
    dataset_samples: Positive
    dataset_classes: Positive
