"""The FLOP arithmetic against torch's own counter, and against the ViT paper's table 6."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.flops import device_peak, forward_macs, train_flops
from pipeline.models.variants import Variant, variant
from pipeline.models.vit import ViT, ViTConfig

pytestmark = pytest.mark.fast


def counted(config: ViTConfig, batch: int, backward: bool) -> int:
    """Operations that torch dispatches for a batch: 2 per multiply-accumulate; attention as plain products."""
    with torch.device("meta"):
        model, images = ViT(config), torch.empty(batch, 3, config.image_size, config.image_size)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(images)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("pooling", ["cls", "gap"])
@pytest.mark.parametrize("image_size", [32, 96])
def test_forward_equals_what_torch_counts(pooling: str, image_size: int) -> None:
    shape = Variant(width=48, depth=3, mlp_dim=100, heads=4, patch=8)
    macs = forward_macs(shape, image_size, pooling, classes=11)
    assert counted(ViTConfig(shape, image_size, 11, pooling), batch=2, backward=False) == 2 * 2 * macs


def test_training_is_three_forwards_but_for_the_images_gradient() -> None:
    shape = variant("vit-s/16")
    config = ViTConfig(shape, 224, classes=1000)
    embed = 196 * 3 * 16**2 * shape.width  # nobody asks for the gradient of the pixels
    expected = train_flops(shape, 224, "cls", 1000) - 2 * embed
    assert counted(config, batch=1, backward=True) == expected


@pytest.mark.parametrize(
    ("name", "epochs", "exaflops", "tolerance"),
    [
        ("vit-b/32", 7, 55, 0.021),  # the paper rounds it down
        ("vit-b/16", 7, 224, 0.003),
        ("vit-l/32", 7, 196, 0.003),
        ("vit-l/16", 7, 783, 0.003),
        ("vit-l/16", 14, 1_567, 0.003),
        ("vit-h/14", 14, 4_262, 0.003),
    ],
)
def test_table_6_of_the_paper(name: str, epochs: int, exaflops: int, tolerance: float) -> None:
    total = 303e6 * epochs * train_flops(variant(name), 224, "cls", classes=0)
    assert total / 1e18 == pytest.approx(exaflops, rel=tolerance)


def test_peaks_by_the_name_that_the_driver_gives() -> None:
    assert device_peak("NVIDIA H100 80GB HBM3") == device_peak("NVIDIA H200") == 989e12
    assert device_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert device_peak("NVIDIA GeForce RTX 4090") is None
    assert device_peak("cpu") is None
