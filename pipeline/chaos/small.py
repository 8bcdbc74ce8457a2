"""A run to be disturbed: a user's own data, reading, augmentation, optimizer, precision and ZeRO stage, but small."""

from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.config import Config

_MODEL: Final = {"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 64, "heads": 2, "mlp_dim": 128}
_KEPT: Final = (
    "pooling",
    "pos_embed",
    "registers",
    "layer_scale",
    "qk_norm",
    "representation_size",
    "head_bias",
)
_OTHER_SIZE: Final = 24  # pixels, of the steps that have another than the model's
_ROWS: Final = 8  # of a micro-batch
_WORKERS: Final = 2


def small_run(config: Config, processes: int, steps: int) -> dict[str, Any]:
    """Its tree, without `run_dir`. Every other step is saved; nothing is evaluated, or copied anywhere."""
    tree = config.to_json(exclude={"run_dir", "slurm"})
    tree["data"] |= {"val": None}
    tree["model"] = _MODEL | {key: tree["model"][key] for key in _KEPT}
    tree["resolution"] = [phase | {"image_size": _OTHER_SIZE} for phase in tree["resolution"]]
    tree["schedule"] |= {"warmup_steps": min(5, steps)}
    tree["loader"] |= {"workers": min(_WORKERS, config.loader.workers)}
    tree["checkpoint"] = {"every_steps": 2, "keep_last": 2}
    return tree | {
        "batch_size": 2 * _ROWS * processes,
        "micro_batch_size": _ROWS,
        "epochs": None,
        "steps": steps,
        "log_every": 1,
    }


def write_small_run(path: Path, tree: dict[str, Any]) -> Path:
    """RUN.yaml, whose run lies beside it."""
    path.write_text(yaml.safe_dump(tree | {"run_dir": str(path.with_suffix(""))}, sort_keys=False))
    return path
