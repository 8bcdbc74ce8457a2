"""Any image classifier of transformers, trained as ours are: [B, 3, H, W] float -> [B, classes] logits.

It is transformers' own module, with its parameters' names; a hook takes the logits out of what it returns. It is built
from a config.json alone: nothing is fetched, no code that came with a model is run.
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import Model
from pipeline.dataset.errors import UsageError
from pipeline.models.architecture import foreign_config

_IMAGES: Final = "pixel_values"


def build_foreign(model: Model, classes: int, seed: int) -> nn.Module:
    """On the CPU in float32, with transformers' initialisation from `seed` alone, and a head of `classes` outputs.

    `head_bias`, where it is set, is the head's bias.

    Raises:
        UsageError: no config.json, or one of what cannot be trained here; begins with `model.name`.
    """
    config = foreign_config(model)
    if config is None:
        raise ValueError(f"{model.name} is one of ours")
    built = make_foreign(config, model, classes, seed)
    if batch_norm := next((name for name, part in built.named_modules() if isinstance(part, _BatchNorm)), None):
        raise UsageError(
            f"model.name: {model.name}: {batch_norm} is a batch norm, whose running statistics no checkpoint keeps and "
            "no two ranks share: take a model without (BiT has group norms)"
        )
    if model.head_bias:
        _set_head_bias(built, classes, model)
    built.register_forward_hook(_logits)
    return built


def make_foreign(config: dict[str, Any], model: Model, classes: int, seed: int) -> nn.Module:
    """transformers' module as it is, without our hook. Raises UsageError, beginning with `model.name`."""
    from transformers import AutoConfig, AutoModelForImageClassification

    where = f"model.name: {model.name}"
    body = {key: value for key, value in config.items() if key not in ("architectures", "transformers_version")}
    try:
        theirs = AutoConfig.for_model(body.pop("model_type"), **body, num_labels=classes)
        if hasattr(theirs, "image_size"):
            theirs.image_size = model.image_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = AutoModelForImageClassification.from_config(theirs, trust_remote_code=False)
    except Exception as error:  # transformers' own checks, and those of the libraries below it, have no one type
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{where}: transformers makes no image classifier of it: {first}") from None
    if next(iter(inspect.signature(built.forward).parameters)) != _IMAGES:
        raise UsageError(f"{where}: takes more than images")
    return built.float().train()


def save_foreign(
    folder: Path, config: dict[str, Any], model: Model, state: dict[str, torch.Tensor], names: Sequence[str], loss: str
) -> dict[str, Any]:
    """A checkpoint's weights as transformers itself saves them, in the empty `folder`. Returns what config.json says.

    Args:
        config: of the checkpoint, as `foreign_config` gave it.
        state: name -> float32, every parameter.
        names: of the classes.
        loss: of the run, which says whether an image has one class or several.
    """
    built = make_foreign(config, model, len(names), seed=0)
    built.load_state_dict(state, strict=False)  # without buffers, which are no training's result
    built.config.id2label = dict(enumerate(names))
    built.config.label2id = {name: number for number, name in enumerate(names)}
    built.config.problem_type = "single_label_classification" if loss == "softmax" else "multi_label_classification"
    built.save_pretrained(folder)
    return json.loads((folder / "config.json").read_bytes())


def _logits(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output.logits


def _set_head_bias(built: nn.Module, classes: int, model: Model) -> None:
    """Raises UsageError where the last layer is none with a bias."""
    last = [part for part in built.modules() if isinstance(part, nn.Linear)][-1:]
    if not last or last[0].out_features != classes or last[0].bias is None:
        raise UsageError(f"model.head_bias: {model.name} does not end in a linear layer with a bias: leave it out")
    nn.init.constant_(last[0].bias, model.head_bias)
