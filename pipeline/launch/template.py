"""DeepSpeed templates: ds_configs/*.json, found in a checkout and in an installed wheel alike. Torch-free."""

import json
from pathlib import Path
from typing import Any, Final

from pipeline.config import Config
from pipeline.dataset.errors import UsageError

STAGES: Final = (0, 1, 2)
_OURS: Final = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "bf16",
    "fp16",
    "optimizer",
    "scheduler",
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
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    clash = next((key for key in _OURS if key in template), None)
    if clash:
        raise UsageError(f"{path}: {clash} belongs in the run's YAML, which sets it for both")
    stage = template.get("zero_optimization", {}).get("stage", 0)
    if stage not in STAGES:
        raise UsageError(f"{path}: ZeRO stage {stage} is not available; take zero0, zero1 or zero2")
    if stage == 0 and config.precision == "bf16":
        raise UsageError("zero: zero0 goes with precision: fp32 only (DeepSpeed steps once on nothing); take zero1")
    return template
