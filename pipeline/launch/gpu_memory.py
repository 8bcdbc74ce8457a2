"""A GPU's memory at the peak of a step, by part, and what has to be recomputed so that it fits. Torch-free."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pipeline.config import Config
from pipeline.launch.states import States, element_bytes, model_states
from pipeline.launch.template import zero_template
from pipeline.models.activations import activation_bytes, kernel_bytes
from pipeline.models.architecture import vit_config
from pipeline.models.resolution import sizes

USABLE: Final = 0.92  # of a GPU: the rest is the driver's, NCCL's, and what the allocator cannot join
_REDUCED_AT_ONCE: Final = 500_000_000  # elements, by DeepSpeed without ZeRO
_MAX_LIVE: Final = 1_000_000_000  # elements gathered at stage 3, by default


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of a rank."""

    states: States
    buffers: int  # in which DeepSpeed reduces and gathers
    activations: int  # of a micro-batch
    update: int  # gradients in fp32 while the optimizer steps, when there are no activations
    recomputed: int  # blocks
    blocks: int

    @property
    def peak(self) -> int:
        return self.states.gpu + max(self.buffers + self.activations, self.update)

    def fits(self, capacity: int) -> bool:
        return self.peak <= USABLE * capacity

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"peak": self.peak}


def gpu_memory(
    config: Config, classes: int, ranks: int, accumulation: int, micro_batch: int, capacity: int | None
) -> GpuMemory | None:
    """Of a rank of so many. None of a model of transformers, whose activations are not known.

    With `engine.activation_checkpointing: auto`, as many blocks are recomputed as a GPU of `capacity` bytes needs; all,
    if that is not enough; none where the capacity is not known (there is no GPU). Of several image sizes, the largest.
    """
    states = model_states(config, classes, ranks, accumulation)
    if states is None or config.model.foreign is not None:
        return None
    largest = max(sizes(config))
    vit, size = replace(vit_config(config, classes), image_size=largest), element_bytes(config)
    depth, asked = vit.variant.depth, config.engine.activation_checkpointing
    buffers = _buffers(config, states.parameters, ranks)
    update = (4 + size) * -(-states.parameters // ranks)

    def with_(recomputed: int) -> GpuMemory:
        activations = micro_batch * activation_bytes(vit, size, recomputed) + kernel_bytes(vit, size)
        return GpuMemory(states, buffers, activations, update, recomputed, depth)

    if asked != "auto":
        return with_(round(asked * depth))
    if capacity is None:
        return with_(0)
    return next((each for each in map(with_, range(depth)) if each.fits(capacity)), with_(depth))


def _buffers(config: Config, parameters: int, ranks: int) -> int:
    """Two buckets where reducing overlaps with backward (as in engine.py); at stage 3 also whole weights, gathered."""
    zero, size = zero_template(config)["zero_optimization"], element_bytes(config)
    stage = zero.get("stage", 0)
    if stage == 0:
        return size * min(parameters, _REDUCED_AT_ONCE)
    buckets = 2 if zero.get("overlap_comm", stage == 3) and (ranks > 1 or stage == 3) else 1
    elements = buckets * min(parameters, zero.get("reduce_bucket_size", _REDUCED_AT_ONCE))
    if stage == 3:
        elements += min(parameters, zero.get("stage3_max_live_parameters", _MAX_LIVE))
    return size * elements
