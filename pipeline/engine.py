"""The DeepSpeed engine from a configuration: model, parameter groups, optimizer, ZeRO.

ds_configs/*.json hold what DeepSpeed owns (stage, buckets, overlap). Batch, clipping and precision come from the
run's YAML alone, so the two cannot disagree.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from pipeline.config import Config
from pipeline.config_optim import Optimizer
from pipeline.launch.template import zero_template
from pipeline.levers import pull_levers
from pipeline.models.architecture import vit_config
from pipeline.models.foreign import build_foreign
from pipeline.models.vit import ViT
from pipeline.optim.finite import trust_the_device, watch
from pipeline.optim.groups import group, parameter_groups, shapes_of, table

_NO_DYNAMO: Final = "TORCHDYNAMO_DISABLE"  # torch.compile then leaves everything as it is


def deepspeed_config(config: Config, micro_batch: int, accumulation: int, world_size: int) -> dict[str, Any]:
    """The complete DeepSpeed configuration. `train_batch_size` includes padding slots, which weigh nothing."""
    template = zero_template(config)
    zero = template["zero_optimization"]
    if not torch.cuda.is_available() or (world_size == 1 and zero.get("stage", 0) <= 2):
        zero["overlap_comm"] = False  # with nothing to overlap: stages 1 and 2 have the host wait for the device for it
    body = template | {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * world_size,
        "gradient_clipping": config.regularization.clip_norm or 0.0,
        # Its overflow check and its throughput timer make the host wait for the device at every step; a step that
        # is not finite is left out on the device (optim/finite.py), and told at the next flush (run/nonfinite.py).
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": False},
        "timers": {"throughput": {"enabled": False}},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW where the state is offloaded, too: nothing is compiled
    }
    if config.precision == "bf16" and zero.get("stage") in (2, 3) and accumulation > 1:
        body["data_types"] = {"grad_accum_dtype": "fp32"}  # else micro-batches add up in bf16
    return body


def build_model(config: Config, classes: int) -> nn.Module:
    """The model on the CPU in float32, initialised from the run's seed. Raises as `build_foreign`."""
    if config.model.foreign is not None:
        return build_foreign(config.model, classes, config.seed)
    return ViT(vit_config(config, classes)).initialise(config.seed)


def build_engine(
    config: Config,
    model: nn.Module,
    device: torch.device,
    micro_batch: int,
    accumulation: int,
    world_size: int,
    say: Callable[[str], None] = lambda line: None,
) -> Any:
    """Wraps a model (on the CPU, with its weights in place) into a DeepSpeed engine on `device`.

    `say` is told which parameters learn how, and what is done for speed and memory. Raises UsageError for
    `optimizer.groups` that do not fit the model, and as `pull_levers`.
    """
    for line in table(group(shapes_of(model), config.optimizer)):
        say(f"{config.optimizer.name}: {line}")
    for line in pull_levers(config, model, world_size, accumulation, micro_batch):
        say(line)
    deepspeed = import_deepspeed()
    model = model.to(device)
    optimizer = build_optimizer(config.optimizer, model)
    body = deepspeed_config(config, micro_batch, accumulation, world_size)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=body, dist_init_required=False)
    watch(engine)
    return engine


def build_optimizer(optimizer: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """torch's own, elementwise: the same on ZeRO's flat partitions as on whole parameters.

    Fused, on the CPU too: only those can leave a step out on the device (optim/finite.py).
    """
    groups = parameter_groups(model, optimizer)
    if optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=optimizer.lr, momentum=optimizer.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps, fused=True)


def import_deepspeed() -> Any:
    """DeepSpeed, quiet, and without compiling anything: its shared-memory op would be built at every first run."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's own calls
    with _undecorated():
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.zero.muon.muon_optimizer  # as every engine does, to say that ours is another

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    trust_the_device()
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}  # in place of a probe that runs compilers
    return deepspeed


@contextmanager
def _undecorated() -> Iterator[None]:
    """Within it torch.compile does nothing. DeepSpeed decorates its Muon, of which we use nothing: a second less."""
    was = os.environ.get(_NO_DYNAMO)
    os.environ[_NO_DYNAMO] = "1"
    try:
        yield
    finally:
        del os.environ[_NO_DYNAMO]
        if was is not None:
            os.environ[_NO_DYNAMO] = was
