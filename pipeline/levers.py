"""`engine`: how the blocks of a model are computed. What comes out differs in rounding only, and in the noise that
compiled blocks draw: keyed by the same seed, but from a generator of the compiler's own.

Compiled, block by block: all blocks are alike, so that one is compiled for all (torch's "regional compilation"), in
seconds, and the elementwise parts between matrix products become one kernel each. Recomputed: a block keeps only its
input for the backward pass, which runs its forward pass once more; it costs a third more of that block's time.
"""

import os
import shutil
from typing import Final

import torch
from torch import nn

from pipeline.config import Config
from pipeline.dataset.errors import UsageError
from pipeline.launch.gpu_memory import USABLE, gpu_memory
from pipeline.launch.template import zero_template
from pipeline.models.vit import ViT

_COMPILED_AT_MOST: Final = 64
_SWITCHES: Final = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")  # torch's own


def pull_levers(config: Config, model: nn.Module, ranks: int, accumulation: int, micro_batch: int) -> list[str]:
    """Sets how the blocks are computed, before DeepSpeed sees the model. Returns what is to be said of it.

    Raises:
        UsageError: `engine.*` asks for what this model, or this machine, cannot do.
    """
    return _recompute(config, model, ranks, accumulation, micro_batch) + _compile(config, model)


def _recompute(config: Config, model: nn.Module, ranks: int, accumulation: int, micro_batch: int) -> list[str]:
    asked = config.engine.activation_checkpointing
    if not isinstance(model, ViT):
        return []
    capacity = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    memory = gpu_memory(config, model.config.classes, ranks, accumulation, micro_batch, capacity)
    assert memory is not None
    model.recomputed_blocks = memory.recomputed
    if not memory.recomputed:
        return []
    why = f"; {memory.peak / 2**30:.1f} GiB are expected then" if asked == "auto" else ""
    lines = [f"{memory.recomputed} of {memory.blocks} blocks are recomputed in the backward pass{why}"]
    if capacity is not None and not memory.fits(capacity):
        lines.append(
            f"that may still be too much for {USABLE:.0%} of this GPU's {capacity / 2**30:.0f} GiB: lower "
            f"micro_batch_size (now {micro_batch})"
        )
    return lines


def _compile(config: Config, model: nn.Module) -> list[str]:
    asked = config.engine.compile
    if asked is False or (asked == "auto" and not torch.cuda.is_available()):
        return []
    if why := _why_not_compiled(config, model):
        if asked is True:
            raise UsageError(f"engine.compile: {why}")
        return [f"blocks are not compiled: {why}"]
    assert isinstance(model, ViT)
    # Training and evaluation, each size of images, with and without stochastic depth: beyond 8 torch would not compile.
    torch._dynamo.config.recompile_limit = _COMPILED_AT_MOST
    torch._dynamo.config.disable = False  # it may have been imported along with DeepSpeed (engine.py)
    for block in model.blocks:
        block.compile(dynamic=False)
    return ["blocks are compiled, in the first steps"]


def _why_not_compiled(config: Config, model: nn.Module) -> str | None:
    if not isinstance(model, ViT):
        return f"{config.model.name} is a model of transformers; only our own ViT's blocks are"
    if zero_template(config)["zero_optimization"].get("stage", 0) == 3:
        return "at ZeRO stage 3 weights are gathered inside of them; take zero1 or zero2"
    if off := next((name for name in _SWITCHES if os.environ.get(name) == "1"), None):
        return f"{off}=1 is set, with which torch.compile does nothing: unset it"
    return _without_a_compiler()


def _without_a_compiler() -> str | None:
    """Triton, for a GPU, takes $CC, or gcc or clang (runtime/build.py); torch's inductor, for a CPU, $CXX or g++."""
    on_gpu = torch.cuda.is_available()
    language, variable, known = ("C", "CC", ("gcc", "clang")) if on_gpu else ("C++", "CXX", ("g++",))
    named = os.environ.get(variable)
    if any(map(shutil.which, [named] if named else known)):
        return None
    fix = f"{variable}={named} is none: unset it" if named else f"install {' or '.join(known)}"
    return f"no {language} compiler is here, which torch.compile needs: {fix}, or set {variable} to one"
