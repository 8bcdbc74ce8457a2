"""Our ViT: equal to transformers' with the same weights, of the published sizes, initialised as its authors do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ViTConfig as TheirConfig
from transformers import ViTForImageClassification

from pipeline.dataset.errors import UsageError
from pipeline.models.huggingface import from_huggingface, places, to_huggingface
from pipeline.models.variants import SIZES, Variant, variant
from pipeline.models.vit import DropPath, ViT, ViTConfig

pytestmark = pytest.mark.fast
SMALL = Variant(width=48, depth=3, mlp_dim=96, heads=4, patch=8)
CLASSES = 7

VERSION_4 = {  # transformers 5 -> 4, and the hub's files
    "vit.layers.": "vit.encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def ours(**changes: Any) -> ViT:
    return ViT(ViTConfig(**({"variant": SMALL, "image_size": 32, "classes": CLASSES} | changes))).eval()


def theirs() -> ViTForImageClassification:
    config = TheirConfig(
        hidden_size=SMALL.width,
        num_hidden_layers=SMALL.depth,
        num_attention_heads=SMALL.heads,
        intermediate_size=SMALL.mlp_dim,
        image_size=32,
        patch_size=SMALL.patch,
        num_labels=CLASSES,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config).eval()


@torch.no_grad()
def scramble(model: torch.nn.Module, seed: int) -> None:
    """Weights of which none is zero, one or like another: a swapped or forgotten tensor shows."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.2, generator=random)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)


def as_version(state: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """The state with the names of transformers 4 or 5, whichever is installed."""
    renamed = {}
    for name, tensor in state.items():
        for new, old in VERSION_4.items():
            before, after = (new, old) if version == 4 else (old, new)
            if not (before == "output.dense" and "attention.output" in name):
                name = name.replace(before, after)
        renamed[name] = tensor
    return renamed


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_logits(mine: ViT, other: ViTForImageClassification, images: Tensor) -> None:
    logits, expected = mine(images), other(pixel_values=images).logits
    assert expected.std() > 0.3  # the comparison means something
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


# -- transformers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_logits_equal_those_of_transformers_from_either_versions_names(version: int, images: Tensor) -> None:
    other, mine = theirs(), ours()
    scramble(other, seed=2)
    state = as_version(other.state_dict(), version)
    assert any(name.startswith("vit.encoder.layer.") for name in state) == (version == 4)
    mine.load_state_dict(from_huggingface(state))
    assert_same_logits(mine, other, images)
    norms = [module for model in (mine, other) for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * (2 * SMALL.depth + 1) and {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize("version", [4, 5])
def test_transformers_gives_our_logits_with_our_weights(version: int, images: Tensor) -> None:
    other, mine = theirs(), ours()
    scramble(mine, seed=3)
    receiving = as_version(other.state_dict(), version)
    state = to_huggingface(mine.state_dict(), receiving)
    assert state.keys() == receiving.keys()
    installed = 4 if any(name.startswith("vit.encoder") for name in other.state_dict()) else 5
    other.load_state_dict(as_version(state, installed))
    assert_same_logits(mine, other, images)


def test_there_and_back_changes_nothing() -> None:
    mine = ours()
    scramble(mine, seed=4)
    back = from_huggingface(to_huggingface(mine.state_dict(), theirs().state_dict()))
    assert back.keys() == mine.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in mine.state_dict().items())


@pytest.mark.parametrize("version", [4, 5, None])
@pytest.mark.parametrize("prefix", ["", "module.", "model.module._orig_mod."])
def test_where_another_trainers_parameters_go(version: int | None, prefix: str) -> None:
    """Element by element, into ours: of transformers 4 and 5 as of our own names, behind any wrapper's prefix."""
    mine, other = ours(), theirs()
    scramble(mine, seed=9)
    expected = mine.state_dict()
    state = to_huggingface(expected, as_version(other.state_dict(), version)) if version else expected
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    filled = {name: torch.full_like(tensor, math.nan) for name, tensor in expected.items()}
    for name, (place, first) in places({name: tuple(t.shape) for name, t in state.items()}, shapes).items():
        filled[place].view(-1)[first : first + state[name].numel()] = state[name].flatten()
    assert all(torch.equal(filled[name], tensor) for name, tensor in expected.items())
    lacking = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("norm.bias")}
    with pytest.raises(UsageError, match=r"norm.*\.bias: not in it"):
        places(lacking, shapes)
    with pytest.raises(UsageError, match="more: no parameter of this model"):
        places({name: tuple(t.shape) for name, t in state.items()} | {f"{prefix}more": (1,)}, shapes)


def test_what_the_other_side_lacks_is_refused() -> None:
    names = theirs().state_dict()
    for changes in ({"pooling": "gap"}, {"pooling": "map"}, {"representation_size": 16}):
        with pytest.raises(UsageError, match="class token"):
            to_huggingface(ours(**changes).state_dict(), names)
    for changes, part in (
        ({"pos_embed": "none"}, "pos_embed"),
        ({"registers": 2}, "register_tokens"),
        ({"layer_scale": 0.1}, "scale1"),
        ({"qk_norm": True}, "k_norm"),
    ):
        with pytest.raises(UsageError, match=f"transformers' ViT differs from this one in .*{part}"):
            to_huggingface(ours(**changes).state_dict(), names)
    with pytest.raises(UsageError, match=r"vit\.pooler\.dense\.weight"):
        from_huggingface({**names, "vit.pooler.dense.weight": torch.zeros(1)})


# -- sizes -----------------------------------------------------------------------------------------------------


def parameters(name: str, **changes: Any) -> int:
    with torch.device("meta"):
        model = ViT(ViTConfig(**({"variant": variant(name), "image_size": 224, "classes": 1000} | changes)))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit-ti/16", 5_717_416),
        ("vit-s/16", 22_050_664),
        ("vit-b/16", 86_567_656),
        ("vit-b/32", 88_224_232),
        ("vit-l/16", 304_326_632),
        ("vit-h/14", 632_045_800),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    assert parameters(name) == count


def test_the_giant_is_of_its_papers_size() -> None:
    assert 1.010e9 < parameters("vit-g/14") < 1.015e9
    assert set(SIZES) == {"ti", "s", "b", "l", "h", "g"}


def test_pooling_and_pre_logits_add_what_they_should() -> None:
    width = SIZES["b"].width
    assert parameters("vit-b/16", pooling="gap") == 86_567_656 - 2 * width  # no class token, nor its position
    assert parameters("vit-b/16", representation_size=width) == 86_567_656 + width * width + width


NONE = ["vit-x/16", "vit-b", "vit-b/0", "vit-b/16 ", "VIT-B/16", "vit-b/-1", "resnet50", "r50+vit-b/14", "r9+vit-b/16"]


@pytest.mark.parametrize("name", NONE)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="vit-SIZE/PATCH with SIZE one of ti, s, b, l, h, g"):
        variant(name)


def test_numbers_of_a_size_can_be_overridden() -> None:
    assert variant("vit-ti/4", depth=2, width=64, heads=2, mlp_dim=128) == Variant(64, 2, 128, 2, 4)
    with pytest.raises(UsageError, match=r"model\.heads: 5 heads do not divide the width, 192"):
        variant("vit-ti/16", heads=5)


# -- the forward pass ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_average_pooling_and_pre_logits(images: Tensor) -> None:
    model = ours(pooling="gap", representation_size=20)
    scramble(model, seed=5)
    tokens = model.patch_embed(images).flatten(2).transpose(1, 2) + model.pos_embed
    assert tokens.shape == (5, 16, SMALL.width)
    for block in model.blocks:
        tokens = block(tokens)
    pooled = model.norm(tokens).mean(dim=1)
    expected = model.head(torch.tanh(pooled @ model.pre_logits.weight.T + model.pre_logits.bias))
    assert model.features(images).shape == (5, 20)
    torch.testing.assert_close(model(images), expected)


@torch.no_grad()
def test_images_do_not_see_each_other(images: Tensor) -> None:
    model = ours()
    scramble(model, seed=6)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_drop_path_keeps_the_expectation_drops_whole_samples_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    drop, branch = DropPath(0.3), torch.randn(20_000, 4, 3)
    out = drop.train()(branch)
    kept = (out != 0).flatten(1)
    assert (kept.all(dim=1) | ~kept.any(dim=1)).all()
    assert abs(kept[:, 0].float().mean() - 0.7) < 0.01
    torch.testing.assert_close(out[kept[:, 0]], branch[kept[:, 0]] / 0.7)
    assert torch.equal(drop.eval()(branch), branch)
    assert torch.equal(DropPath(0.0).train()(branch), branch)


@torch.no_grad()
def test_stochastic_depth_grows_linearly_and_acts_in_training_only(images: Tensor) -> None:
    model = ours(drop_path=0.6)
    scramble(model, seed=7)
    assert isinstance(model.blocks[0].drop_path, torch.nn.Identity)
    assert [float(block.drop_path.rate) for block in model.blocks[1:]] == pytest.approx([0.3, 0.6])
    plain = ours()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(images), plain(images))
    model.train()
    torch.manual_seed(0)
    assert not torch.allclose(model(images), plain(images))


@torch.no_grad()
def test_dropout_sits_where_the_paper_has_it_and_acts_in_training_only(images: Tensor) -> None:
    model = ours(dropout=0.5)
    scramble(model, seed=8)
    sites = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert len(sites) == 1 + 2 * SMALL.depth  # positions; attention's output and the MLP, each
    calls: list[str] = []
    for name in sites:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    first = model(images)
    assert len(calls) == 1 + 3 * SMALL.depth  # twice in each MLP
    assert torch.equal(model(images), first)
    model.train()
    assert not torch.allclose(model(images), first)


# -- initialisation --------------------------------------------------------------------------------------------


def test_initialisation_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = ours(representation_size=16).initialise(5).state_dict()
    torch.manual_seed(2)
    torch.randn(10)
    second, other = (ours(representation_size=16).initialise(seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    random = [name for name in first if first[name].unique().numel() > 1]
    assert len(random) == 2 + 6 * SMALL.depth + 1 and not any(torch.equal(first[n], other[n]) for n in random)


@torch.no_grad()
def test_initialisation_is_the_authors() -> None:
    big = ViT(ViTConfig(variant("vit-s/16", depth=2), 224, classes=10, representation_size=384, head_bias=-6.9))
    big.initialise(0)
    width, mlp = 384, 1_536
    for block in big.blocks:
        for kernel in (*block.attention.qkv.weight.chunk(3), block.attention.out.weight):  # q, k, v on their own
            assert_uniform(kernel, math.sqrt(6 / (width + width)))
        for kernel in (block.mlp.up.weight, block.mlp.down.weight):
            assert_uniform(kernel, math.sqrt(6 / (width + mlp)))
        for bias in (block.attention.qkv.bias, block.attention.out.bias):
            assert not bias.any()
        for bias in (block.mlp.up.bias, block.mlp.down.bias):
            assert 0.5e-6 < bias.std() < 2e-6
    assert big.patch_embed.weight.std() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.02)
    assert not big.patch_embed.bias.any()
    assert big.pos_embed.std() == pytest.approx(0.02, rel=0.02) and abs(big.pos_embed.mean()) < 1e-3
    assert_uniform(big.pre_logits.weight, math.sqrt(6 / (384 + 384)))
    assert not big.head.weight.any() and (big.head.bias == -6.9).all()
    fresh = ours().initialise(0)
    assert not fresh.cls_token.any()
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in (fresh.norm, fresh.blocks[0].norm1))


def assert_uniform(kernel: Tensor, bound: float) -> None:
    assert 0.99 * bound < kernel.abs().max() <= bound
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
