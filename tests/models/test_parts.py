"""The ViT's optional parts, each against the whole model in NumPy; their initialisation, names and numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.posemb import sincos2d
from pipeline.models.variants import Variant
from pipeline.models.vit import PatchDropout, ViT, ViTConfig
from tests.models import reference

pytestmark = pytest.mark.fast
SMALL = Variant(width=48, depth=3, mlp_dim=96, heads=4, patch=8)
ALL = {"pos_embed": "sincos2d", "registers": 3, "layer_scale": 0.5, "qk_norm": True, "representation_size": 20}
CHOICES: list[dict[str, Any]] = [
    {},
    {"pooling": "gap"},
    {"pooling": "map"},
    {"pooling": "map", "representation_size": 20},
    {"pos_embed": "sincos2d"},
    {"pos_embed": "none"},
    {"pooling": "gap", "pos_embed": "sincos2d"},
    {"registers": 3},
    {"registers": 3, "pooling": "gap"},
    {"registers": 3, "pooling": "map"},
    {"layer_scale": 0.1},
    {"qk_norm": True},
    {"pooling": "cls", **ALL},
    {"pooling": "gap", **ALL},
    {"pooling": "map", **ALL},
]


def made(**changes: Any) -> ViT:
    return ViT(ViTConfig(**({"variant": SMALL, "image_size": 32, "classes": 7} | changes))).eval()


@torch.no_grad()
def scramble(model: ViT, seed: int) -> ViT:
    """Weights of which none is like another: a part that is left out, or in another place, shows."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.2, generator=random)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("changes", CHOICES, ids=lambda changes: ",".join(changes) or "plain")
def test_logits_equal_those_of_the_model_in_numpy(changes: dict[str, Any], images: Tensor) -> None:
    model = scramble(made(**changes), seed=2)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    if changes.get("pos_embed") == "sincos2d":
        fixed = reference.posemb_sincos_2d(4, SMALL.width)
        of_class = np.zeros((int(changes.get("pooling", "cls") == "cls"), SMALL.width))
        state["pos_embed"] = np.concatenate([of_class, fixed])[None]
    pooling = changes.get("pooling", "cls")
    expected = np.stack([reference.logits(state, image, 8, 4, pooling) for image in images.double().numpy()])
    assert expected.std() > 0.1
    assert np.abs(model(images).numpy() - expected).max() <= 2e-5 * np.abs(expected).max()


@torch.no_grad()
@pytest.mark.parametrize("changes", CHOICES, ids=lambda changes: ",".join(changes) or "plain")
def test_it_computes_in_bf16_where_only_parameters_are_so(changes: dict[str, Any], images: Tensor) -> None:
    """As DeepSpeed has it: buffers stay in float32."""
    model = scramble(made(**changes), seed=2)
    expected = model(images)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    logits = model.train()(images.bfloat16())
    assert logits.dtype == torch.bfloat16
    assert torch.linalg.vector_norm(logits.float() - expected) < 0.1 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("changes", CHOICES, ids=lambda changes: ",".join(changes) or "plain")
def test_names_are_those_of_checkpoints(changes: dict[str, Any]) -> None:
    """What a checkpoint is read by: these names may never change."""
    names = {"patch_embed.weight", "patch_embed.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    dense = ["attention.qkv", "attention.out", "mlp.up", "mlp.down", "norm1", "norm2"]
    names |= {f"blocks.{i}.{name}.{kind}" for i in range(3) for name in dense for kind in ("weight", "bias")}
    pooling = changes.get("pooling", "cls")
    names |= {"cls_token"} if pooling == "cls" else set()
    names |= {"pos_embed"} if changes.get("pos_embed", "learned") == "learned" else set()
    names |= {"register_tokens"} if changes.get("registers") else set()
    if pooling == "map":
        parts = ["q", "kv", "out", "norm", "mlp.up", "mlp.down"]
        names |= {"pool.probe"} | {f"pool.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    if changes.get("layer_scale"):
        names |= {f"blocks.{i}.scale{n}.scale" for i in range(3) for n in (1, 2)}
    if changes.get("qk_norm"):
        names |= {f"blocks.{i}.attention.{name}_norm.weight" for i in range(3) for name in "qk"}
    if changes.get("representation_size"):
        names |= {"pre_logits.weight", "pre_logits.bias"}
    model = made(**changes)
    assert model.state_dict().keys() == names == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("side", "width"), [(1, 8), (4, 48), (16, 192), (14, 384)])
def test_fixed_positions_are_big_visions(side: int, width: int) -> None:
    expected = reference.posemb_sincos_2d(side, width)
    assert np.abs(sincos2d(side, width).double().numpy() - expected).max() < 1e-6


@torch.no_grad()
def test_initialisation_of_the_parts_is_the_authors() -> None:
    wide = Variant(width=384, depth=2, mlp_dim=1536, heads=6, patch=16)
    model = ViT(ViTConfig(wide, 224, classes=10, pooling="map", registers=4, layer_scale=1e-4, qk_norm=True))
    model.initialise(0)
    pool = model.pool
    assert pool is not None and model.register_tokens is not None
    kernels = (pool.q.weight, *pool.kv.weight.chunk(2), pool.out.weight)
    for kernel, bound in [
        *((kernel, math.sqrt(6 / (384 + 384))) for kernel in kernels),
        (pool.mlp.up.weight, math.sqrt(6 / (384 + 1536))),
        (pool.probe, math.sqrt(6 / (1 + 384))),
    ]:
        assert 0.97 * bound < kernel.abs().max() <= bound
        assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.08)
    assert not any(dense.bias.any() for dense in (pool.q, pool.kv, pool.out))
    assert 0 < pool.mlp.up.bias.abs().max() < 1e-5 and 0 < model.register_tokens.abs().max() < 1e-5
    for block in model.blocks:
        assert all((scale.scale == 1e-4).all() for scale in (block.scale1, block.scale2))
        assert (block.attention.q_norm.weight == 1).all() and block.attention.q_norm.bias is None


def test_a_seed_gives_the_parts_that_two_models_share_the_same_weights() -> None:
    """Runs that differ in a part compare: what they have in common begins alike."""
    plain = made(pooling="gap").initialise(4).state_dict()
    for changes in ({"registers": 2}, {"layer_scale": 0.1}, {"qk_norm": True}, {"pooling": "map"}):
        other = made(**({"pooling": "gap"} | changes)).initialise(4).state_dict()
        assert all(torch.equal(other[name], tensor) for name, tensor in plain.items()), changes


# -- noise in training -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_patch_dropout_keeps_other_patches_of_each_image_and_all_else() -> None:
    torch.manual_seed(0)
    drop, tokens = PatchDropout(prefix=1, rate=0.75), torch.arange(17.0).expand(2000, 17)[:, :, None]
    out = drop.train()(tokens.expand(-1, -1, 3))
    assert out.shape == (2000, 5, 3) and not out[:, 0].any()
    kept = out[:, 1:, 0].long()
    assert all(len(set(row)) == 4 for row in kept.tolist())
    counts = torch.bincount(kept.flatten(), minlength=17)
    assert counts[0] == 0 and (counts[1:] / 2000 - 0.25).abs().max() < 0.05
    assert torch.equal(drop.eval()(tokens), tokens)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
def test_patch_dropout_acts_in_training_only_and_by_torchs_generator(pooling: str, images: Tensor) -> None:
    model = scramble(made(pooling=pooling, patch_dropout=0.5, registers=2), seed=3)
    plain = made(pooling=pooling, registers=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(images), plain(images))
    model.train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model(images))
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[1], drawn[2])
    assert not torch.allclose(drawn[0], plain(images))


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 16), (0.5, 8), (0.9, 2), (0.99, 1)])
def test_patch_dropout_leaves_what_its_rate_says(rate: float, kept: int) -> None:
    assert made(patch_dropout=rate).config.kept_patches == kept


def test_everything_is_trained() -> None:
    """Each parameter gets a gradient: none is built and not used."""
    model = scramble(made(pooling="map", **ALL), seed=5).train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
