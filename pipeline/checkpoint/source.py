"""What `model.init` names: a Hugging Face ViT, an exported file, or one of our checkpoints. Torch-free."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from pydantic import ValidationError

from pipeline.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, Damaged, read_checkpoint_manifest
from pipeline.config import Model
from pipeline.dataset.errors import UsageError
from pipeline.models.hub import LAYER_NORM_EPS, open_hub_folder

KEY = "model.init"
METADATA = "vitstream"  # of an exported file: model, classes, step, as JSON


@dataclass(frozen=True)
class Source:
    """Weights to start from."""

    path: Path
    files: tuple[Path, ...]  # safetensors; of a checkpoint none, whose manifest says what lies where
    manifest: CheckpointManifest | None
    is_ours: bool  # our names of parameters, not those of transformers
    heads: int
    layer_norm_eps: float
    classes: tuple[str, ...]  # or none where they are not known


def open_source(path: Path) -> Source:
    """Raises UsageError, naming model.init, where there is nothing that could be read."""
    if (path / MANIFEST_NAME).is_file():
        try:
            manifest = read_checkpoint_manifest(path)
        except (Damaged, UsageError) as error:
            raise UsageError(f"{KEY}: {error}") from None
        return _ours(path, manifest.config["model"], manifest.classes, (), manifest)
    if path.is_file():
        facts = _metadata(path)
        return _ours(path, facts["model"], facts["classes"], (path,), None)
    if not path.is_dir():
        raise UsageError(f"{KEY}: {path}: no such folder")
    hub = open_hub_folder(path, KEY)
    return Source(path, hub.files, None, False, hub.heads, hub.layer_norm_eps, hub.classes)


def model_of(path: Path, model: dict[str, Any]) -> Model:
    """The model that a checkpoint, or an exported file, says it is of. Raises UsageError where it has unknown keys."""
    try:
        return Model.model_validate(model)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(f"{path}: model.{key}: not known here; it is of another version of vitstream") from None


def _ours(
    path: Path, model: dict[str, Any], classes: list[str], files: tuple[Path, ...], manifest: CheckpointManifest | None
) -> Source:
    ours = model_of(path, model)
    if ours.foreign is not None:
        raise UsageError(f"{KEY}: {path} is of {ours.name}, not of our own ViT")
    return Source(path, files, manifest, True, ours.variant.heads, LAYER_NORM_EPS, tuple(classes))


def _metadata(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {})[METADATA])
        return {"model": facts["model"], "classes": facts["classes"]}
    except (OSError, ValueError, safetensors.SafetensorError):
        raise UsageError(f"{KEY}: {path}: not a readable safetensors file") from None
    except (KeyError, TypeError):
        raise UsageError(f"{KEY}: {path}: not a file that vitstream checkpoint export has made") from None
