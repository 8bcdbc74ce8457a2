"""DeepSpeed templates: ds_configs/*.json, found in a checkout and in an installed wheel alike. Torch-free."""

import json
from pathlib import Path
from typing import Any, Final

from pipeline.config import Config
from pipeline.dataset.errors import UsageError

STAGES: Final = (0, 1, 2)
# What a template may hold: what DeepSpeed owns and the checkpoint can follow. Batch, clipping, precision, optimizer and
# schedule are the run's; offloading and accumulation types change the optimizer under the checkpoint.
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
)


def template_path(zero: str) -> Path:
    """ds_configs/NAME.json, which travels inside an installed wheel, or the path that `zero` is."""
    here = Path(__file__).parent.parent
    folder = next(f for f in (here / "ds_configs", here.parent / "ds_configs") if f.is_dir())
    if (folder / f"{zero}.json").is_file():
        return folder / f"{zero}.json"
    if Path(zero).is_file():
        return Path(zero)
    known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
    raise UsageError(f"zero: {zero} is neither a file nor one of {known}")


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
        raise UsageError(f"{path}: ZeRO stage {stage} is not available; take zero0, zero1 or zero2")
    if stage == 0 and config.precision == "bf16":
        raise UsageError("zero: zero0 goes with precision: fp32 only (DeepSpeed steps once on nothing); take zero1")
    return template
