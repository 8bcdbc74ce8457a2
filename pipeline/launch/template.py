"""DeepSpeed templates: ds_configs/*.json, found in a checkout and in an installed wheel alike. Torch-free."""

import json
from pathlib import Path
from typing import Any, Final

from pipeline.config import Config
from pipeline.dataset.errors import UsageError

STAGES: Final = (0, 1, 2, 3)
# What a template may hold: what DeepSpeed owns and the checkpoint can follow. Batch, clipping, precision, optimizer and
# schedule are the run's; accumulation types, and offloading to a disk, change the optimizer under the checkpoint.
_KEYS: Final = ("zero_optimization", "communication_data_type", "comms_logger", "wall_clock_breakdown")
_ZERO_KEYS: Final = (
    "stage",
    "overlap_comm",
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "allgather_partitions",
    "allgather_bucket_size",
    "round_robin_gradients",
    "use_multi_rank_bucket_allreduce",
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "offload_optimizer",
)
_OFFLOAD_KEYS: Final = ("device", "pin_memory")


def template_names() -> list[str]:
    """What `zero` may be besides a path."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def template_path(zero: str) -> Path:
    """ds_configs/NAME.json, or the path that `zero` is."""
    ours = _folder() / f"{zero}.json"
    if ours.is_file():
        return ours
    if Path(zero).is_file():
        return Path(zero)
    raise UsageError(f"zero: {zero} is neither a file nor one of {', '.join(template_names())}")


def _folder() -> Path:
    """ds_configs/, which travels inside an installed wheel."""
    here = Path(__file__).parent.parent
    return next(f for f in (here / "ds_configs", here.parent / "ds_configs") if f.is_dir())


def zero_template(config: Config) -> dict[str, Any]:
    """The DeepSpeed template that a run names, checked.

    Raises:
        UsageError: not there, not JSON, a key that belongs to the run's YAML, or a stage that does not go with it.
    """
    path = template_path(config.zero)
    try:
        template = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable JSON file ({error})") from None
    zero = template.get("zero_optimization") if isinstance(template, dict) else None
    if not isinstance(zero, dict):
        raise UsageError(f'{path}: not a DeepSpeed template: it has no {{"zero_optimization": {{...}}}}')
    foreign = next((key for key in template if key not in _KEYS), None)
    if foreign:
        raise UsageError(
            f"{path}: {foreign} does not belong here; known: {', '.join(_KEYS)} (the run's YAML has the rest)"
        )
    unknown = next((key for key in zero if key not in _ZERO_KEYS), None)
    if unknown:
        raise UsageError(f"{path}: zero_optimization.{unknown} is not available; known: {', '.join(_ZERO_KEYS)}")
    stage = zero.get("stage", 0)
    if stage not in STAGES or isinstance(stage, bool):
        raise UsageError(f"{path}: ZeRO stage {stage} is not available; take zero0, zero1, zero2 or zero3")
    if "offload_optimizer" in zero:
        _check_offload(path, zero["offload_optimizer"], stage)
    if stage == 3 and config.engine.compile is True:
        raise UsageError("engine.compile: at ZeRO stage 3 weights are gathered inside of blocks; take zero1 or zero2")
    if stage == 0 and config.precision == "bf16":
        raise UsageError("zero: zero0 goes with precision: fp32 only (DeepSpeed steps once on nothing); take zero1")
    return template


def engine_notes(config: Config, accumulation: int) -> list[str]:
    """What one might not expect of the engine, a line each."""
    stage = zero_template(config)["zero_optimization"].get("stage", 0)
    if config.precision == "bf16" and stage == 1 and accumulation > 1:
        return [f"zero1 adds {accumulation} micro-batches up in bf16; zero2, or a larger micro_batch_size, not"]
    return []


def _check_offload(path: Path, offload: Any, stage: int) -> None:
    key = "zero_optimization.offload_optimizer"
    if stage != 3:
        raise UsageError(f"{path}: {key} goes with stage 3 only, not {stage}; take zero3_offload")
    if not isinstance(offload, dict) or offload.get("device") != "cpu" or not set(offload) <= set(_OFFLOAD_KEYS):
        raise UsageError(f'{path}: {key} takes {{"device": "cpu"}}, and "pin_memory": true or false beside it')
