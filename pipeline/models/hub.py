"""A folder as the Hugging Face hub has them: what goes into its JSON files, and where weights lie in one. Torch-free.

What a plain ViT classifier of transformers is, both ways: `model_config` says it of ours, `foreign` reads it of theirs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Model
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import is_plain_name

LAYER_NORM_EPS = 1e-6
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_NOT_THEIRS = {"registers": "register tokens", "layer_scale": "LayerScale", "qk_norm": "normalised queries and keys"}
_BILINEAR = 2  # Pillow's number, which transformers takes
_LIKE_OURS = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}  # and transformers' defaults


@dataclass(frozen=True)
class HubFolder:
    """A ViT of transformers on disk."""

    path: Path
    files: tuple[Path, ...]  # safetensors, with all weights
    heads: int
    layer_norm_eps: float
    classes: tuple[str, ...]  # their names, or none where nobody has named them


def refusal(model: Model) -> str | None:
    """Why transformers' ViT cannot be this model, naming the key; or None."""
    if model.foreign is None and model.variant.resnet is not None:
        return f"model.name: {model.name}: transformers 5 has no hybrids, of a ResNet below a ViT, any more"
    if model.pooling != "cls":
        return f"model.pooling: {model.pooling}: transformers' ViT classifies from its class token only"
    if model.pos_embed != "learned":
        return f"model.pos_embed: {model.pos_embed}: transformers' ViT has learned position embeddings only"
    for key, what in _NOT_THEIRS.items():
        if getattr(model, key):
            return f"model.{key}: transformers' ViT has no {what}"
    if model.representation_size:
        return "model.representation_size: transformers' ViT classifier has no pre-logits layer"
    return None


def model_config(model: Model, classes: Sequence[str], loss: str) -> dict[str, Any]:
    """config.json of `ViTForImageClassification`, for transformers 4 and 5."""
    variant = model.variant
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": model.image_size,
        "patch_size": variant.patch,
        "num_channels": 3,
        "hidden_size": variant.width,
        "num_hidden_layers": variant.depth,
        "num_attention_heads": variant.heads,
        "intermediate_size": variant.mlp_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "problem_type": "single_label_classification" if loss == "softmax" else "multi_label_classification",
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }


def preprocessor_config(image_size: int, crop: float) -> dict[str, Any]:
    """preprocessor_config.json: our evaluation's centre crop and range, as CLIP's processor does them.

    Ours takes `crop` of the shorter side and resizes that to `image_size`; theirs resizes the shorter side to
    image_size / crop first, which shows the same part of the picture.
    """
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(image_size / crop)},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def open_hub_folder(path: Path, key: str) -> HubFolder:
    """A folder with config.json and safetensors.

    Raises:
        UsageError: what is missing, or why it is no plain ViT; begins with `key`.
    """
    config = _read_json(path / "config.json", key)
    if config.get("model_type") != "vit":
        raise UsageError(f"{key}: {path}/config.json: model_type is {config.get('model_type')}, not vit")
    for name, ours in _LIKE_OURS.items():
        if config.get(name, ours) != ours:
            raise UsageError(f"{key}: {path}/config.json: {name} is {config[name]}, ours is {ours}")
    heads, eps = config.get("num_attention_heads", 12), config.get("layer_norm_eps", 1e-12)
    return HubFolder(path, _weight_files(path, key), heads, eps, _classes(config))


def _classes(config: dict[str, Any]) -> tuple[str, ...]:
    labels = config.get("id2label")
    names = {int(n): str(name) for n, name in labels.items() if n.isdigit()} if isinstance(labels, dict) else {}
    ordered = tuple(names[number] for number in sorted(names))
    return () if all(name == f"LABEL_{number}" for number, name in enumerate(ordered)) else ordered


def _weight_files(path: Path, key: str) -> tuple[Path, ...]:
    if (path / _SINGLE).is_file():
        return (path / _SINGLE,)
    if (path / _INDEX).is_file():
        names = sorted(set(_read_json(path / _INDEX, key).get("weight_map", {}).values()))
        if unsafe := [name for name in names if not is_plain_name(name)]:
            raise UsageError(f"{key}: {path / _INDEX}: file name {unsafe[0]!r} is not a plain name")
        if missing := [name for name in names if not (path / name).is_file()]:
            raise UsageError(f"{key}: {path / missing[0]}: missing, though {_INDEX} names it")
        return tuple(path / name for name in names)
    pickled = next((p.name for p in path.glob("*.bin")), None)
    why = f"{pickled} is a pickle, which is not opened: have it saved as" if pickled else "it has no"
    raise UsageError(f"{key}: {path}: {why} {_SINGLE}")


def _read_json(path: Path, key: str) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{key}: {path}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{key}: {path}: not valid JSON") from None
    if not isinstance(body, dict):
        raise UsageError(f"{key}: {path}: not a JSON object")
    return body
