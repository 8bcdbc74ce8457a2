"""Which parameters decay."""

import pytest
import torch

from pipeline.config import Optimizer
from pipeline.models.variants import variant
from pipeline.models.vit import ViT, ViTConfig
from pipeline.optim.groups import parameter_groups

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "gap"},
        {"representation_size": 32},
        {"pooling": "map", "registers": 2, "layer_scale": 0.1, "qk_norm": True},
    ],
)
def test_kernels_decay_and_nothing_else(changes: dict) -> None:
    model = ViT(ViTConfig(variant("vit-ti/16", depth=2), 32, classes=5, **changes))
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
