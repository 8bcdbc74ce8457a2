"""A checkpoint as other tools open it: a Hugging Face folder, or one file of named weights. Whole, or not there."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoint.card import model_card
from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.listing import checkpoints_of
from pipeline.checkpoint.manifest import CheckpointManifest, Damaged
from pipeline.checkpoint.source import METADATA, model_of
from pipeline.checkpoint.state import WEIGHT
from pipeline.checkpoint.verify import verify
from pipeline.config_model import FOREIGN
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory, render_json
from pipeline.models.foreign import save_foreign
from pipeline.models.hub import model_config, preprocessor_config, refusal
from pipeline.models.huggingface import hub_names, to_huggingface
from pipeline.optim.ema import AVERAGE
from pipeline.run.metrics import lines_of_steps

KINDS = {"model": WEIGHT, "ema": AVERAGE}  # --weights -> the checkpoint's kind of tensor


@dataclass(frozen=True)
class Exported:
    """What was made, and of which checkpoint."""

    out: str
    checkpoint: str
    weights: str
    bytes: int
    damaged: tuple[str, ...]  # newer checkpoints that do not verify, and why

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        passed = "".join(f"; passed over: {damage}" for damage in self.damaged)
        return f"{self.out}: {self.weights} weights of {self.checkpoint}, {self.bytes:,} bytes{passed}"


def export(place: Path, to: str, out: Path, weights: str = "model") -> Exported:
    """Exports the checkpoint `place`, or the newest of the run `place` that verifies, to `out`.

    Raises:
        UsageError: nothing there, an unknown format, `out` taken, or a model that the format cannot express.
        WorkFailed: no byte-for-byte good checkpoint, or `out` cannot be written.
    """
    writers: dict[str, Callable[..., None]] = {"huggingface": _write_huggingface, "safetensors": _write_file}
    if to not in writers:
        raise UsageError(f"--to {to}: takes {' or '.join(writers)}")
    if weights not in KINDS:
        raise UsageError(f"--weights {weights}: takes {' or '.join(KINDS)}")
    if out.exists():
        raise UsageError(f"--out: {out} is there already; name another")
    path, manifest, damaged = _good(place)
    if to == "huggingface" and (why := refusal(model_of(path, manifest.config["model"]))):
        raise UsageError(f"{why}; --to safetensors takes any model")
    state = read_state(path, manifest, weights)
    aside = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writers[to](aside, path, manifest, state, weights)
        size = _sync(aside)
        aside.rename(out)
        fsync_directory(out.parent)
    except OSError as error:
        raise WorkFailed(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if aside.is_file():
            aside.unlink()
    return Exported(str(out), path.name, weights, size, damaged)


def read_state(path: Path, manifest: CheckpointManifest, weights: str) -> dict[str, Tensor]:
    """name -> float32 tensor, whole. Raises UsageError where the checkpoint has no such weights."""
    kind = KINDS[weights]
    if f"{kind}/{next(iter(manifest.shapes))}" not in manifest.tensors:
        raise UsageError(f"--weights {weights}: {path} has none: the run was trained without {weights}")
    reader = TensorReader(path, manifest)
    return {
        name: reader.read(f"{kind}/{name}", 0, torch.Size(shape).numel()).view(shape)
        for name, shape in manifest.shapes.items()
    }


def _good(place: Path) -> tuple[Path, CheckpointManifest, tuple[str, ...]]:
    """The newest that verifies, and what is wrong with newer ones."""
    damages: list[str] = []
    for path in reversed(checkpoints_of(place)):
        try:
            return path, verify(path), tuple(damages)
        except Damaged as damage:
            damages.append(f"{path.name} is damaged: {damage}")
    raise WorkFailed(f"{place}: no checkpoint verifies: {'; '.join(damages)}")


def _write_huggingface(
    aside: Path, path: Path, manifest: CheckpointManifest, state: dict[str, Tensor], weights: str
) -> None:
    config = manifest.config
    model, classes = model_of(path, config["model"]), _classes(manifest)
    loss = config.get("loss", "softmax")
    aside.mkdir()
    if model.foreign is None:
        facts = model_config(model, classes, loss)
        converted = to_huggingface(state, hub_names(model.variant.depth))
        save_file({name: each.contiguous() for name, each in converted.items()}, aside / "model.safetensors", _FORMAT)
    else:
        facts = save_foreign(aside, manifest.data["foreign"], model, state, classes, loss)
    crop = config.get("evaluate", {}).get("crop", 1.0)
    texts = {
        "config.json": render_json(facts),
        "preprocessor_config.json": render_json(preprocessor_config(model.image_size, crop)),
        "README.md": model_card(manifest, weights, classes, _evaluation(path, manifest, weights)).encode(),
    }
    for name, text in texts.items():
        (aside / name).write_bytes(text)


def _write_file(aside: Path, path: Path, manifest: CheckpointManifest, state: dict[str, Tensor], weights: str) -> None:
    model = {key: value for key, value in manifest.config["model"].items() if key != "init"}
    if foreign := manifest.data.get("foreign"):
        model["name"] = f"{FOREIGN}{foreign['model_type']}"  # not where it lay
    facts = {"model": model, "classes": _classes(manifest), "step": manifest.step, "weights": weights}
    save_file(state, aside, _FORMAT | {METADATA: json.dumps(facts)})


_FORMAT = {"format": "pt"}  # without it transformers does not take the file for torch's


def _classes(manifest: CheckpointManifest) -> list[str]:
    """Their names; of an older checkpoint, numbers."""
    return manifest.classes or [f"LABEL_{number}" for number in range(manifest.shapes["head.bias"][0])]


def _evaluation(path: Path, manifest: CheckpointManifest, weights: str) -> dict[str, Any] | None:
    """The last evaluation of these weights at this step, if the checkpoint still lies in its run's folder."""
    if manifest.config.get("evaluate", {}).get("weights", "model") != weights:
        return None
    metrics = path.absolute().parent.parent / "metrics.jsonl"
    lines = list(lines_of_steps(metrics, {manifest.step}))  # of a step that was done again, the last line counts
    return lines[-1] if lines and "eval" in lines[-1] else None


def _sync(path: Path) -> int:
    """Makes a file, or a folder's files, survive a power cut. Returns their bytes."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for each in files:
        with each.open("rb+") as file:
            os.fsync(file.fileno())
    if path.is_dir():
        fsync_directory(path)
    return sum(each.stat().st_size for each in files)
