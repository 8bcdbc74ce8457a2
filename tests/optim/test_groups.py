"""Which parameters decay."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Optimizer
from pipeline.dataset.errors import UsageError
from pipeline.models.variants import variant
from pipeline.models.vit import ViT, ViTConfig
from pipeline.optim.groups import LR_SCALE, group, is_kernel, parameter_groups, set_learning_rate, table
from tests.models.hybrid import HYBRID

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "gap"},
        {"representation_size": 32},
        {"pooling": "map", "registers": 2, "layer_scale": 0.1, "qk_norm": True},
        {"variant": variant(HYBRID["name"], depth=2)},
    ],
)
def test_kernels_decay_and_nothing_else(changes: dict) -> None:
    model = ViT(ViTConfig(**({"variant": variant("vit-ti/16", depth=2), "image_size": 32, "classes": 5} | changes)))
    decayed, plain = parameter_groups(model, Optimizer(weight_decay=0.3))
    assert decayed["weight_decay"] == 0.3 and plain["weight_decay"] == 0.0

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ([names[id(parameter)] for parameter in group["params"]] for group in (decayed, plain))
    assert sorted(decayed + plain) == sorted(names.values())  # each exactly once

    kernels = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    assert set(decayed) == {f"{name}.weight" for name in kernels}
    assert "pos_embed" in plain and ("cls_token" in plain) == ("pooling" not in changes)
    assert all(name in plain for name in names.values() if name.endswith("bias") or "norm" in name)


def test_torchs_adamw_takes_them() -> None:
    model = ViT(ViTConfig(variant("vit-ti/16", depth=1), 32, classes=5)).initialise(0)
    optimizer = torch.optim.AdamW(parameter_groups(model, Optimizer(weight_decay=0.5)), lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # no gradient: only the decay moves anything
    decayed = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    for name, parameter in model.named_parameters():
        factor = 0.95 if id(parameter) in decayed else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


SHAPES = {name: tuple(p.shape) for name, p in ViT(ViTConfig(variant("vit-ti/16", depth=4), 32, 5)).named_parameters()}


def scales(**optimizer: object) -> dict[str, tuple[float, float]]:
    """Name -> (lr_scale, weight decay)."""
    groups = group(SHAPES, Optimizer.model_validate(optimizer))
    return {name: (each.lr_scale, each.weight_decay) for each in groups for name in each.names}


def test_the_first_that_matches_the_whole_name_counts() -> None:
    found = scales(
        weight_decay=0.03,
        groups=[
            {"match": r"head\.weight", "weight_decay": 100},
            {"match": "head.*", "lr": 10},
            {"match": ".*norm.*", "lr": 0.5, "weight_decay": 1},
            {"match": "pos_embed", "lr": 0},
        ],
    )
    assert found["head.weight"] == (1.0, pytest.approx(3.0)) and found["head.bias"] == (10.0, 0.0)
    assert found["blocks.2.norm1.bias"] == (0.5, 0.03) and found["pos_embed"] == (0.0, 0.0)
    assert found["blocks.0.mlp.up.weight"] == (1.0, 0.03) and found["blocks.0.mlp.up.bias"] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([{"match": "head"}], "groups.0.match: head matches the whole of no name; names: cls_token"),
        ([{"match": "head.*"}, {"match": "head.bias"}], "groups.1.match: head.bias is matched by those before it"),
    ],
)
def test_a_group_that_nothing_is_in_is_refused(groups: list[dict], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        scales(groups=groups)


@settings(max_examples=30, deadline=None)
@given(depth=st.integers(1, 12), decay=st.floats(0.1, 1.0))
def test_layer_decay_is_that_of_mae(depth: int, decay: float) -> None:
    """Against the loop of facebookresearch/mae's util/lr_decay.py, written out anew."""
    model = ViT(ViTConfig(variant("vit-ti/16", depth=depth, width=12, heads=1, mlp_dim=4), 32, 5))
    optimizer = Optimizer(layer_decay=decay)
    found = {name: each.lr_scale for each in group(_shapes(model), optimizer) for name in each.names}
    assert found.keys() == dict(model.named_parameters()).keys()
    rate = 1.0
    for names in [["norm.weight", "head.bias"], *([f"blocks.{n}.mlp.up.bias"] for n in reversed(range(depth)))]:
        assert [found[name] for name in names] == pytest.approx([rate] * len(names))
        rate *= decay
    assert [found[name] for name in ("cls_token", "pos_embed", "patch_embed.weight")] == pytest.approx([rate] * 3)


def test_a_hybrids_resnet_learns_as_the_embedding_does() -> None:
    model = ViT(ViTConfig(variant(HYBRID["name"], depth=2), 32, 5))
    found = {n: each.lr_scale for each in group(_shapes(model), Optimizer(layer_decay=0.5)) for n in each.names}
    assert {rate for name, rate in found.items() if name.startswith("backbone.")} == {0.125}
    assert found["patch_embed.weight"] == 0.125 and found["blocks.0.norm1.bias"] == 0.25


def _shapes(model: torch.nn.Module) -> dict:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def test_layer_decay_multiplies_what_a_group_says_and_needs_blocks() -> None:
    found = scales(layer_decay=0.5, groups=[{"match": r"blocks\.3\..*", "lr": 3}])
    assert found["blocks.3.norm1.bias"][0] == 1.5 and found["blocks.2.norm1.bias"][0] == 0.25
    with pytest.raises(UsageError, match=r"optimizer\.layer_decay: this model has no parameters blocks"):
        group({"stem.weight": (3, 3)}, Optimizer(layer_decay=0.5))


def test_each_parameter_is_in_one_group_and_the_table_counts_all() -> None:
    groups = group(SHAPES, Optimizer(layer_decay=0.9))
    assert sorted(name for each in groups for name in each.names) == sorted(SHAPES)
    assert sum(each.numbers for each in groups) == sum(torch.Size(s).numel() for s in SHAPES.values())
    assert all(is_kernel(n, SHAPES[n]) == (each.decay_scale > 0) for each in groups for n in each.names)
    lines = list(table(groups, most=6))
    assert len(groups) == 12 and len(lines) == 7 and lines[3] == "... 6 groups between these"
    assert lines[0].startswith("lr x 1, weight decay 0.1: 960 parameters in 1 tensor (head.weight)")


def test_rates_of_a_step_reach_every_group() -> None:
    model = ViT(ViTConfig(variant("vit-ti/16", depth=1), 32, classes=5)).initialise(0)
    optimizer = torch.optim.SGD(parameter_groups(model, Optimizer(groups=[{"match": "head.*", "lr": 0.1}])), lr=1.0)
    set_learning_rate(optimizer.param_groups, 0.5)
    assert [(each["lr"], each[LR_SCALE]) for each in optimizer.param_groups] == [
        (0.5, 1.0), (0.5, 1.0), (0.05, 0.1), (0.05, 0.1)
    ]  # fmt: skip
