"""`engine`: how a model is computed. Torch-free. What comes out of it differs in rounding and, compiled, in noise."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config_tree import Section

Auto = Literal["auto"]


class Engine(Section):
    compile: Auto | bool = "auto"  # the blocks, by torch.compile; auto: on a GPU
    activation_checkpointing: Auto | Annotated[float, Field(ge=0, le=1)] = "auto"  # share of the blocks; auto: by need
