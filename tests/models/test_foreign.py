"""Models of transformers as this trainer takes them: built from config.json and a seed, logits out, refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    BitConfig,
    BitForImageClassification,
    ConvNextConfig,
    Dinov2Config,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from pipeline.cluster.snapshot import with_absolute_paths
from pipeline.config import Config, load_config
from pipeline.config_model import Model
from pipeline.dataset.errors import UsageError
from pipeline.engine import build_model
from pipeline.models.architecture import foreign_config, parameters, train_flops
from pipeline.models.foreign import build_foreign
from tests.models.foreign import BIT, write_bit
from tests.runs import write_run

pytestmark = pytest.mark.fast


def of(folder: Path, **changes: Any) -> Model:
    return Model(name=f"hf:{folder}", **({"image_size": 32} | changes))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_bit_gives_transformers_own_logits_under_its_own_names(tmp_path: Path, images: torch.Tensor) -> None:
    ours = build_foreign(of(write_bit(tmp_path)), classes=7, seed=3).eval()
    theirs = BitForImageClassification(BitConfig(**BIT, num_labels=7)).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    logits = ours(images)
    assert logits.shape == (3, 7) and logits.std() > 0.01
    assert torch.equal(logits, theirs(pixel_values=images).logits)


def test_its_weights_follow_from_the_seed_alone(tmp_path: Path) -> None:
    model = of(write_bit(tmp_path))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_foreign(model, 7, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = (build_foreign(model, 7, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("conv1.weight"))


SMALL_ONES = {
    "vit": ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=8),
    "dinov2": Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8),
    "swin": SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], patch_size=2, window_size=4, image_size=32),
    "convnext": ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 32, 64]),
}


@pytest.mark.parametrize("kind", SMALL_ONES)
def test_other_classifiers_are_built_and_trained_at_the_runs_size(
    kind: str, tmp_path: Path, images: torch.Tensor
) -> None:
    SMALL_ONES[kind].save_pretrained(tmp_path)
    model = build_foreign(of(tmp_path / "config.json"), classes=5, seed=0)
    logits = model(images)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@torch.no_grad()
def test_a_head_bias_is_set(tmp_path: Path, images: torch.Tensor) -> None:
    model = build_foreign(of(write_bit(tmp_path), head_bias=-10.0), 7, seed=0)
    assert (model.classifier[1].bias == -10).all()


def test_the_papers_resnets_need_no_folder_wherever_the_run_is_started(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run.yaml", tmp_path / "x", model={"name": "hf:bit-r50x1", "image_size": 32})
    config = load_config(run)
    assert parameters(config, 1000) == 25_549_352
    assert with_absolute_paths(config).model == config.model, "a job has the code, and this in it"
    write_bit(tmp_path / "bit-r50x1")
    assert parameters(load_config(run), 1000) == 25_549_352
    assert (parameters(load_config(run, ["model.name=hf:./bit-r50x1"]), 1000) or 0) < 200_000


# -- what is refused -------------------------------------------------------------------------------------------


def test_batch_norm_is_refused(tmp_path: Path) -> None:
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"model\.name: hf:.*batch norm, whose running statistics"):
        build_foreign(of(tmp_path), 7, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no model_type"),
        ('{"model_type": "bit", "width_factor": 3}', "width_factor.*multiply hidden_sizes"),
        ('{"model_type": "vit", "auto_map": {"AutoConfig": "x.Y"}}', "auto_map"),
        ('{"model_type": "vit", "num_channels": 1}', "num_channels: 1"),
    ],
)
def test_a_config_that_cannot_be_trained_is_named_without_torch(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=rf"model\.name: .*config\.json: {words}"):
        foreign_config(of(tmp_path))


def test_a_folder_that_is_not_there_is_no_name_to_look_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.name: google/bit-50: No such file.*hf: takes a local folder"):
        foreign_config(Model(name="hf:google/bit-50"))


@pytest.mark.parametrize(
    "body",
    [
        {"model_type": "nothing-like-it"},
        {"model_type": "bert"},
        {"model_type": "bit", "layer_type": "upside down"},
        {"model_type": "bit", "hidden_sizes": [30, 50], "depths": [1, 1]},
    ],
)
def test_what_transformers_cannot_build_is_one_line(body: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(body))
    with pytest.raises(UsageError, match=r"^model\.name: hf:.*transformers makes no image classifier of it: .+$"):
        build_foreign(of(tmp_path), 7, 0)


def test_that_transformers_does_not_widen_a_bits_head_is_still_so() -> None:
    """Why width_factor is refused."""
    model = BitForImageClassification(BitConfig(**BIT, width_factor=2, num_labels=7))
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"pooling": "gap"}}, "model: pooling is of our own ViT"),
        ({"model": {"depth": 2}}, "model: depth is of our own ViT"),
        ({"model": {"init": "x"}}, "model: init: hf:bit starts from its own"),
        ({"regularization": {"drop_path": 0.1}}, r"regularization\.drop_path: is of our own ViT"),
        ({"regularization": {"patch_dropout": 0.1}}, r"regularization\.patch_dropout: is of our own ViT"),
    ],
)
def test_keys_of_our_own_vit_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = {"name": "hf:bit", "image_size": 33} | changes.pop("model", {})
    with pytest.raises(UsageError, match=words):
        load_config(write_run(tmp_path / "run.yaml", tmp_path, model=model, **changes))


# -- arithmetic ------------------------------------------------------------------------------------------------


def test_a_bits_numbers_are_known_and_others_are_not(tmp_path: Path) -> None:
    def config(folder: Path) -> Config:
        return load_config(write_run(tmp_path / "run.yaml", tmp_path, model={"name": f"hf:{folder}", "image_size": 64}))

    bit = config(write_bit(tmp_path / "bit"))
    assert parameters(bit, 7) == sum(p.numel() for p in build_model(bit, 7).parameters())
    assert (train_flops(bit, 7) or 0) > 1e6
    SMALL_ONES["swin"].save_pretrained(tmp_path / "swin")
    swin = config(tmp_path / "swin")
    assert parameters(swin, 7) is None and train_flops(swin, 7) is None
    assert AutoConfig.from_pretrained(tmp_path / "swin").model_type == "swin"
