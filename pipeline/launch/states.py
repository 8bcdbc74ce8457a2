"""Memory of what a model consists of while it is trained, by ZeRO stage: arithmetic, torch-free."""

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.launch.template import zero_template


@dataclass(frozen=True)
class States:
    """Bytes of a rank; activations and DeepSpeed's buffers come on top."""

    parameters: int  # how many, of the whole model
    zero: str
    gpu: int
    host: int  # of main memory: what `offload_optimizer` keeps there


def model_states(config: Config, classes: int, ranks: int, accumulation: int) -> States:
    """Weights and gradients of `precision`, fp32 weights, two moments, and the average where there is one."""
    zero = zero_template(config)["zero_optimization"]
    stage, count = zero.get("stage", 0), parameters(config, classes)
    size = 2 if config.precision == "bf16" else 4
    sums = 4 if size == 2 and stage >= 2 and accumulation > 1 else size  # of micro-batches' gradients
    own = -(-count // ranks)  # a rank's share

    def held(from_stage: int) -> int:
        return own if stage >= from_stage else count

    masters = 4 if stage else 0  # at stage 0, which is fp32's, the weights themselves
    optimizer = (8 + masters + (4 if config.ema else 0)) * held(1)
    offloaded = "offload_optimizer" in zero
    working = size * held(3) + sums * held(2)
    return States(count, config.zero, working + (0 if offloaded else optimizer), optimizer if offloaded else 0)


def parameters(config: Config, classes: int) -> int:
    """How many a model has."""
    model, variant = config.model, config.model.variant
    width, mlp = variant.width, variant.mlp_dim
    patches = (model.image_size // variant.patch) ** 2
    embed = 3 * variant.patch**2 * width + width
    positions = (patches + (model.pooling == "cls")) * width + (width if model.pooling == "cls" else 0)
    block = 4 * width + 4 * (width**2 + width) + 2 * width * mlp + mlp + width
    seen = model.representation_size or width
    pre_logits = width * seen + seen if model.representation_size else 0
    return embed + positions + variant.depth * block + 2 * width + pre_logits + seen * classes + classes
