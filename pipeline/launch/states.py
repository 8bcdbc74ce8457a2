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
    """Bytes of a rank; activations and DeepSpeed's buffers come on top. None: only building the model would tell."""

    parameters: int | None  # how many, of the whole model
    zero: str
    gpu: int | None
    host: int  # of main memory: what `offload_optimizer` keeps there; 0 where that is not known
    groups: tuple[ParameterGroup, ...] = ()  # what learns how fast, and what decays; empty where that is not known


def model_states(config: Config, classes: int, ranks: int, accumulation: int) -> States:
    """Weights and gradients of `precision`, fp32 weights, moments, and the average where there is one."""
    zero = zero_template(config)["zero_optimization"]
    stage, count = zero.get("stage", 0), parameters(config, classes)
    shapes = parameter_shapes(config, classes)
    groups = tuple(group(shapes, config.optimizer)) if shapes else ()
    if count is None:
        return States(None, config.zero, None, 0)
    size = 2 if config.precision == "bf16" else 4
    sums = 4 if size == 2 and stage >= 2 and accumulation > 1 else size  # of micro-batches' gradients
    own = -(-count // ranks)  # a rank's share

    def held(from_stage: int) -> int:
        return own if stage >= from_stage else count

    masters = 4 if stage else 0  # at stage 0, which is fp32's, the weights themselves
    moments = 4 * len(MOMENTS_OF[config.optimizer.name])
    optimizer = (moments + masters + (4 if config.ema else 0)) * held(1)
    offloaded = "offload_optimizer" in zero
    working = size * held(3) + sums * held(2)
    gpu, host = (working, optimizer) if offloaded else (working + optimizer, 0)
    return States(count, config.zero, gpu, host, groups)
