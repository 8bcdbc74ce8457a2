"""The section `sinks` of RUN.yaml: where else a run's metrics are shown. Torch-free."""

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from pipeline.config_tree import Section


class Wandb(Section):
    """Weights & Biases. Its key comes from its own environment or from `wandb login`, never from here."""

    project: str
    entity: str | None = None
    name: str | None = None  # the run folder's
    mode: Literal["online", "offline"] | None = None  # as WANDB_MODE says, else online


class Sinks(Section):
    """No step is another for them, so they may change at any time."""

    tensorboard: bool | Path = False  # true: into RUN/tensorboard
    wandb: Wandb | None = None

    @field_validator("tensorboard", mode="before")
    @classmethod
    def _here(cls, folder: object) -> object:
        if isinstance(folder, str) and "://" in folder:
            raise ValueError(f"takes true or a folder of this machine, not {folder}")
        return folder
