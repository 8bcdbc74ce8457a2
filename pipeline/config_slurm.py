"""The section `slurm` of RUN.yaml. Torch-free."""

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.cluster.forms import checked
from pipeline.config_tree import Positive, Section


class Slurm(Section):
    """What a cluster is asked for by `submit`; `train` has no use for it. Never which nodes: those that died change."""

    nodes: Positive = 1
    gpus_per_node: Positive | None = None  # a rank each
    tasks_per_node: Positive | None = None  # ranks of a node, where there are no GPUs
    cpus_per_task: Positive | None = None
    mem: str | None = None  # of a node
    time: str = "24:00:00"  # of each job of the chain
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    chain: Annotated[int, Field(ge=1, le=1000)] | None = None  # jobs that are queued; None: computed
    attempts: Positive = 50  # starts of the ranks, in all jobs together
    without_progress: Positive = 3  # failures in a row that published no new step, after which the run stops

    @field_validator("mem", "time", mode="before")
    @classmethod
    def _in_quotes(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            raise ValueError(f"{value} is a number to YAML, as 4:00:00 is: write it in quotes")
        return value

    @field_validator("mem", "time", "partition", "account", "qos", "constraint")
    @classmethod
    def _of_slurms_form(cls, value: str | None, info: ValidationInfo) -> str | None:
        return checked(str(info.field_name), value)

    @model_validator(mode="after")
    def _a_rank_per_gpu(self) -> "Slurm":
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"gpus_per_node {self.gpus_per_node} and tasks_per_node {self.tasks_per_node}: there is one task per "
                "GPU; leave tasks_per_node out"
            )
        return self

    @property
    def tasks(self) -> int:
        """Ranks of a node."""
        return self.gpus_per_node or self.tasks_per_node or 1
