"""What a forward pass keeps, as arithmetic, against what torch really keeps; and what is recomputed instead."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models.activations import activation_bytes, block_bytes, kernel_bytes, tokens_of
from pipeline.models.variants import Variant, ViTConfig, variant
from pipeline.models.vit import ViT

pytestmark = pytest.mark.fast
SMALL = Variant(width=128, depth=4, mlp_dim=512, heads=4, patch=8)
IMAGES = 4


def vit(**parts: Any) -> ViT:
    return ViT(ViTConfig(SMALL, 64, 10, **({"pooling": "gap"} | parts))).train()


def kept_bytes(model: ViT, dtype: torch.dtype) -> int:
    """Of all tensors that autograd keeps of a forward pass, each storage once, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in parameters:
            kept[place] = tensor
        return tensor

    images = torch.randn(IMAGES, 3, 64, 64, dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(images)
    assert logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"layer_scale": 0.1},
        {"qk_norm": True},
        {"dropout": 0.1},
        {"drop_path": 0.3},
        {"registers": 3, "pooling": "cls"},
        {"patch_dropout": 0.5},
        {"qk_norm": True, "layer_scale": 0.1, "dropout": 0.1, "drop_path": 0.2, "registers": 4},
    ],
)
def test_as_many_bytes_as_torch_keeps(parts: dict, dtype: torch.dtype) -> None:
    model = vit(**parts).to(dtype)
    expected = IMAGES * activation_bytes(model.config, dtype.itemsize)
    assert kept_bytes(model, dtype) == pytest.approx(expected, rel=0.035)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["r50+vit-ti/16", "r50+vit-ti/32"])
def test_as_many_bytes_as_torch_keeps_of_a_hybrid(name: str, dtype: torch.dtype) -> None:
    config, size = ViTConfig(variant(name, depth=1), 64, 10, "gap"), dtype.itemsize
    expected = IMAGES * activation_bytes(config, size) + kernel_bytes(config, size)
    assert kept_bytes(ViT(config).to(dtype), dtype) == pytest.approx(expected, rel=0.01)
    assert kernel_bytes(ViTConfig(SMALL, 64, 10), size) == 0


def test_a_recomputed_block_keeps_its_input_only() -> None:
    config = vit().config
    less = activation_bytes(config, 2) - activation_bytes(config, 2, recomputed=3)
    assert less == 3 * (block_bytes(config, 2) - tokens_of(config) * 128 * 2) - block_bytes(config, 2)


@pytest.mark.parametrize("recomputed", [0, 1, 4])
def test_blocks_are_run_once_more_and_nothing_else_changes(recomputed: int) -> None:
    def gradients(recomputed: int) -> tuple[list[Tensor], int]:
        torch.manual_seed(0)
        model = vit(dropout=0.2, drop_path=0.5).initialise(0)
        torch.nn.init.normal_(model.head.weight)
        model.recomputed_blocks, runs = recomputed, []
        for block in model.blocks:
            block.norm2.register_forward_hook(lambda *_: runs.append(1))
        torch.manual_seed(1)
        model(torch.randn(IMAGES, 3, 64, 64, generator=torch.Generator().manual_seed(2))).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None], len(runs)

    plain, runs = gradients(0)
    others, more = gradients(recomputed)
    assert (runs, more) == (4, 4 + recomputed)
    assert all(torch.equal(a, b) for a, b in zip(plain, others, strict=True))
