"""What is exported opens elsewhere, as the same model; what cannot be expressed is refused; never half a folder."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from pipeline.checkpoint.export import export
from pipeline.dataset.errors import UsageError, WorkFailed
from tests.checkpoint.made import CLASSES, make_checkpoint, scrambled, small_config
from tests.images import photo
from tests.models.hybrid import HYBRID
from tests.runs import CHECKOUT, one_line, vitstream

INTERPRETERS = {"5": sys.executable, "4": str(CHECKOUT / ".venv-mds" / "bin" / "python")}


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path / "run")


def transformers_of(interpreter):
    code = "import transformers; print(transformers.__version__)"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("major", INTERPRETERS)
@torch.no_grad()
def test_transformers_opens_the_folder_and_has_our_logits(config, tmp_path, major):
    interpreter = INTERPRETERS[major]
    try:
        version = transformers_of(interpreter)
    except FileNotFoundError:
        pytest.skip(f"{interpreter} is not here: make .venv-mds/.installed")
    if version.partition(".")[0] != major:
        pytest.skip(f"{interpreter} has transformers {version}")
    model = scrambled(config)
    make_checkpoint(config, model, 7)
    done = vitstream("checkpoint", "export", config.run_dir, "--to", "huggingface", "--out", tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    image = photo(80, 60, seed=3)
    cv2.imwrite(str(tmp_path / "image.png"), image[:, :, ::-1])
    script = CHECKOUT / "tests" / "checkpoint" / "open_exported.py"
    command = [interpreter, script, tmp_path / "hub", tmp_path / "image.png", tmp_path / "out.npz"]
    opened = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert opened.returncode == 0, opened.stderr
    found = np.load(tmp_path / "out.npz")
    assert str(found["version"]).startswith(f"{major}.") and list(found["names"]) == CLASSES
    pixels = torch.from_numpy(found["pixels"])
    assert pixels.shape == (1, 3, 32, 32) and -1 <= pixels.min() < pixels.max() <= 1
    side = round(60 * 0.875)  # the part that our own evaluation crops, resized
    top, left = (60 - side) // 2, (80 - side) // 2
    ours = cv2.resize(image[top : top + side, left : left + side], (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels[0].permute(1, 2, 0).numpy() - (ours / 127.5 - 1)).mean() < 0.1
    logits = model(pixels)
    assert logits.std() > 0.3
    assert np.abs(logits.numpy() - found["logits"]).max() <= 1e-5 * logits.abs().max()


def test_the_card_has_the_figures_and_no_place(config, tmp_path):
    make_checkpoint(config, scrambled(config), 7)
    lines = [{"step": 7, "loss": 1.0}, {"eval": "val", "step": 7, "accuracy": 0.5, "samples": 200, "loss": 1.0}]
    (config.run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    export(config.run_dir, "huggingface", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    for word in ("f" * 64, "| steps | 7 |", "| samples seen | 224 |", "50.00% of 200", "0.1.0 (c0ffee)", "lr: 0.001"):
        assert word in card, word
    everything = b"".join(path.read_bytes() for path in (tmp_path / "hub").iterdir())
    for secret in ("secret", "signature", "s3://", str(tmp_path)):
        assert secret.encode() not in everything


def test_the_newest_that_verifies_is_taken_and_the_damage_said(config, tmp_path):
    model = scrambled(config)
    make_checkpoint(config, model, 7)
    path = make_checkpoint(config, model, 9) / "rank-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = vitstream("checkpoint", "export", config.run_dir, "--to", "safetensors", "--out", tmp_path / "w.safetensors")
    assert done.returncode == 0 and "step-00000007" in done.stdout and "step-00000009 is damaged" in done.stdout
    with pytest.raises(WorkFailed, match="step-00000009"):
        export(path.parent, "safetensors", tmp_path / "other.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "w.safetensors"]


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_plain_safetensors_has_the_names_the_weights_and_the_classes(config, tmp_path, weights):
    model = scrambled(config)
    make_checkpoint(config, model, 7, kinds=("weight", "exp_avg", "exp_avg_sq", "ema"))
    out = tmp_path / "deep" / "w.safetensors"
    export(config.run_dir, "safetensors", out, weights)
    state = load_file(out)
    factor = 4 if weights == "ema" else 1
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], factor * p.detach()) for name, p in model.named_parameters())
    with safetensors.safe_open(out, framework="pt") as file:
        facts = json.loads(file.metadata()["vitstream"])
    assert facts["classes"] == CLASSES and facts["step"] == 7 and facts["weights"] == weights
    assert facts["model"]["width"] == 48


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"pooling": "gap"}, "model.pooling"),
        ({"pooling": "map"}, "model.pooling"),
        ({"representation_size": 16}, "representation_size"),
        ({"pos_embed": "sincos2d"}, "model.pos_embed"),
        ({"pos_embed": "none"}, "model.pos_embed"),
        ({"registers": 2}, "model.registers"),
        ({"layer_scale": 0.1}, "model.layer_scale"),
        ({"qk_norm": True}, "model.qk_norm"),
        ({"name": HYBRID["name"]}, "model.name"),
    ],
)
def test_what_transformers_cannot_express_is_refused_by_name(config, tmp_path, changes, key):
    config = small_config(tmp_path / "run", **changes)
    make_checkpoint(config, scrambled(config), 7)
    with pytest.raises(UsageError, match=rf"{re.escape(key)}\b.*--to safetensors"):
        export(config.run_dir, "huggingface", tmp_path / "hub")
    if key == "model.registers":  # one of them by the command
        one_line(vitstream("checkpoint", "export", config.run_dir, "--out", tmp_path / "hub"), key, "--to safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    export(config.run_dir, "safetensors", tmp_path / "w.safetensors")


def test_mistakes_are_named(config, tmp_path):
    make_checkpoint(config, scrambled(config), 7)
    with pytest.raises(UsageError, match=r"--weights ema: .* trained without ema"):
        export(config.run_dir, "huggingface", tmp_path / "hub", "ema")
    with pytest.raises(UsageError, match="--to onnx: takes huggingface or safetensors"):
        export(config.run_dir, "onnx", tmp_path / "hub")
    (tmp_path / "hub").mkdir()
    with pytest.raises(UsageError, match=r"--out: .* is there already"):
        export(config.run_dir, "huggingface", tmp_path / "hub")
    later = make_checkpoint(
        config, scrambled(config), 8, config={"model": {"name": "vit-ti/8", "swizzle": 2}, "batch_size": 32}
    )
    with pytest.raises(UsageError, match=r"model\.swizzle: not known here; it is of another version"):
        export(later, "huggingface", tmp_path / "other")
    shutil.rmtree(later)
    with pytest.raises(WorkFailed, match="cannot be written"):
        export(config.run_dir, "huggingface", config.run_dir / "checkpoints" / "step-00000007" / "manifest.json" / "x")
