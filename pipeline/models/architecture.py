"""A run's model as numbers: what it is, how many parameters it has, how much it computes. Torch-free.

Of a model of transformers only a BiT's are known without building it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pipeline.config import Config
from pipeline.config_model import FOREIGN, Model, shipped_names
from pipeline.dataset.errors import UsageError
from pipeline.models import flops
from pipeline.models.resnet import ResNet, resnet_of
from pipeline.models.variants import ViTConfig

_NAMES: Final = ("id2label", "label2id", "num_labels", "_num_labels", "problem_type")  # of classes, which the data says
_KEY: Final = "model.name"


def vit_config(config: Config, classes: int) -> ViTConfig:
    """What a run's ViT is."""
    model, noise = config.model, config.regularization
    return ViTConfig(
        variant=model.variant,
        image_size=model.image_size,
        classes=classes,
        pooling=model.pooling,
        representation_size=model.representation_size,
        head_bias=model.head_bias,
        dropout=noise.dropout,
        drop_path=noise.drop_path,
        patch_dropout=noise.patch_dropout,
        pos_embed=model.pos_embed,
        registers=model.registers,
        layer_scale=model.layer_scale,
        qk_norm=model.qk_norm,
    )


def parameters(config: Config, classes: int) -> int | None:
    """How many a model has; None where only building it would tell. Raises as `foreign_config`."""
    if config.model.foreign is not None:
        resnet = _resnet(config.model)
        return resnet.parameters(classes) if resnet else None
    return vit_parameters(vit_config(config, classes))


def train_flops(config: Config, classes: int, image_size: int | None = None) -> int | None:
    """Operations to train on one image, by default of `model.image_size`; None where that is not known.

    Raises as `foreign_config`.
    """
    size = image_size or config.model.image_size
    if config.model.foreign is not None:
        resnet = _resnet(config.model)
        return resnet.train_flops(size, classes) if resnet else None
    return flops.train_flops(replace(vit_config(config, classes), image_size=size))


def vit_parameters(config: ViTConfig) -> int:
    """How many a ViT has."""
    variant, classes = config.variant, config.classes
    width, mlp = variant.width, variant.mlp_dim
    channels, side = variant.embedded
    embed = channels * side**2 * width + width
    if variant.resnet is not None:
        embed += variant.resnet.parameters()
    tokens = config.class_tokens + config.registers
    if config.pos_embed == "learned":
        tokens += config.class_tokens + config.patches
    perceptron = 2 * width * mlp + mlp + width
    block = 4 * width + 4 * (width**2 + width) + perceptron
    if config.layer_scale is not None:
        block += 2 * width
    if config.qk_norm:
        block += 2 * (width // variant.heads)
    pool = width + 4 * (width**2 + width) + 2 * width + perceptron if config.pooling == "map" else 0
    seen = config.representation_size or width
    pre_logits = width * seen + seen if config.representation_size else 0
    return embed + tokens * width + variant.depth * block + 2 * width + pool + pre_logits + seen * classes + classes


def foreign_config(model: Model) -> dict[str, Any] | None:
    """What the config.json of a model of transformers says, but for its classes; None of one of ours.

    Raises:
        UsageError: not there, not readable, or a model that cannot be trained from it; begins with `model.name`.
    """
    if model.foreign is None:
        return None
    path = model.foreign / "config.json" if model.foreign.is_dir() else model.foreign
    config = _read(path)
    where = f"{_KEY}: {path}"
    if not isinstance(config.get("model_type"), str):
        raise UsageError(f"{where}: no model_type in it: save it with transformers' save_pretrained")
    if "auto_map" in config:
        raise UsageError(f"{where}: auto_map: its code comes with the weights, which is not run here")
    if config.get("num_channels", 3) != 3:
        raise UsageError(f"{where}: num_channels: {config['num_channels']}, images have 3")
    if config["model_type"] == "bit" and config.get("width_factor", 1) != 1:
        fix = "multiply hidden_sizes and embedding_size instead, and set it to 1"
        raise UsageError(f"{where}: width_factor: transformers does not widen the last norm and the head by it: {fix}")
    return {key: value for key, value in config.items() if key not in _NAMES}


def _resnet(model: Model) -> ResNet | None:
    config = foreign_config(model)
    return resnet_of(config) if config is not None else None


def _read(path: Path) -> dict[str, Any]:
    where = f"{_KEY}: {path}"
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        takes = f"{FOREIGN} takes a local folder with a config.json, or one of {', '.join(shipped_names())}"
        raise UsageError(f"{where}: {error.strerror}; {takes}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: not valid JSON") from None
    if not isinstance(config, dict):
        raise UsageError(f"{where}: not a JSON object")
    return config
