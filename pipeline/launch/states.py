"""Memory of what a model consists of while it is trained, by ZeRO stage: arithmetic, torch-free."""

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.launch.template import zero_template
from pipeline.models.architecture import parameters
from pipeline.models.shapes import parameter_shapes
from pipeline.optim.groups import ParameterGroup, group
from pipeline.optim.kinds import MOMENTS_OF


@dataclass(frozen=True)
class States:
    """Bytes of a rank's GPU; activations and DeepSpeed's buffers come on top."""

    parameters: int  # how many, of the whole model
    weights: int
    gradients: int
    optimizer: int  # fp32 weights and moments; 0 where they are offloaded
    average: int  # of the weights
    host: int  # of main memory: what `offload_optimizer` keeps there

    @property
    def gpu(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average


def model_states(config: Config, classes: int, ranks: int, accumulation: int) -> States | None:
    """Weights and gradients of `precision`, fp32 weights, moments, and the average where there is one.

    None where only building the model would tell.
    """
    zero = zero_template(config)["zero_optimization"]
    stage, count = zero.get("stage", 0), parameters(config, classes)
    if count is None:
        return None
    size = element_bytes(config)
    sums = 4 if size == 2 and stage >= 2 and accumulation > 1 else size  # of micro-batches' gradients
    own = -(-count // ranks)  # a rank's share

    def held(from_stage: int) -> int:
        return own if stage >= from_stage else count

    masters = 4 if stage else 0  # at stage 0, which is fp32's, the weights themselves
    optimizer = (4 * len(MOMENTS_OF[config.optimizer.name]) + masters) * held(1)
    average = (4 if config.ema else 0) * held(1)
    weights, gradients = size * held(3), sums * held(2)
    if "offload_optimizer" in zero:
        return States(count, weights, gradients, 0, 0, optimizer + average)
    return States(count, weights, gradients, optimizer, average, 0)


def learning(config: Config, classes: int) -> tuple[ParameterGroup, ...]:
    """What learns how fast, and what decays; empty where only building the model would tell."""
    shapes = parameter_shapes(config, classes)
    return tuple(group(shapes, config.optimizer)) if shapes else ()


def element_bytes(config: Config) -> int:
    """Of what is computed with."""
    return 2 if config.precision == "bf16" else 4
