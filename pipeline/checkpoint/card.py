"""The model card of an exported checkpoint: what it is and how it came to be; no path, no address. Torch-free."""

from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.checkpoint.manifest import CheckpointManifest

# Of a run's configuration, what says what was trained. Where data and folders lie is nobody else's business.
_TOLD = (
    "model",
    "batch_size",
    "epochs",
    "steps",
    "optimizer",
    "schedule",
    "precision",
    "loss",
    "label_smoothing",
    "regularization",
    "augment",
    "ema",
    "seed",
)
_USE = """```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained(FOLDER)
model = AutoModelForImageClassification.from_pretrained(FOLDER)
logits = model(**processor(images, return_tensors="pt")).logits
```"""


def model_card(
    manifest: CheckpointManifest, weights: str, classes: Sequence[str], evaluation: dict[str, Any] | None
) -> str:
    """README.md of a Hugging Face folder.

    Args:
        manifest: the checkpoint's.
        weights: "model" or "ema".
        classes: their names.
        evaluation: the line of metrics.jsonl for this step and these weights, where there is one.
    """
    config = manifest.config
    rows = {
        "steps": f"{manifest.step:,}",
        "samples seen": f"{manifest.consumed:,}",
        "weights": "an exponential moving average of the model's" if weights == "ema" else "the model's, float32",
        "classes": f"{len(classes):,}",
        "training data, fingerprint": f"`{manifest.data['fingerprint']}`",
        "validation accuracy": _accuracy(evaluation),
        "trained with": " ".join(["vitstream", *_code(manifest.code)]),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    told = {key: config[key] for key in _TOLD if config.get(key) is not None}
    told["model"] = {key: value for key, value in told["model"].items() if key != "init" and value is not None}
    kind, foreign = "Vision Transformer", manifest.data.get("foreign")
    if foreign is not None:
        kind = f"model of type {foreign['model_type']}"
        told["model"] = {"name": foreign["model_type"], "image_size": config["model"]["image_size"]}
    body = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    name, size = told["model"]["name"], config["model"]["image_size"]
    tag = foreign["model_type"] if foreign else "vit"
    front = f"---\nlibrary_name: transformers\npipeline_tag: image-classification\ntags: [{tag}, vitstream]\n---\n"
    return (
        f"{front}\n# {name} at {size} px\n\nA {kind}, pre-trained with vitstream.\n\n"
        f"| | |\n|---|---|\n{table}\n\n{_USE}\n\n## Configuration\n\n```yaml\n{body}```\n"
    )


def _accuracy(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "not measured at this step"
    return f"{evaluation['accuracy']:.2%} of {evaluation['samples']:,} samples"


def _code(code: dict[str, str]) -> list[str]:
    return [code[key] if key == "version" else f"({code[key]})" for key in ("version", "git_commit") if key in code]
