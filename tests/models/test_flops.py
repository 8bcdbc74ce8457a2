"""The FLOP arithmetic against torch's own counter, and against the ViT paper's table 6."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BitConfig, BitForImageClassification

from pipeline.launch.gpus import device_peak, known_gpu
from pipeline.models.architecture import vit_parameters
from pipeline.models.flops import forward_macs, train_flops
from pipeline.models.resnet import ResNet, resnet_of
from pipeline.models.variants import Variant, variant
from pipeline.models.vit import ViT, ViTConfig

pytestmark = pytest.mark.fast
JFT = 303e6  # images


def counted(model: torch.nn.Module, images: torch.Tensor, backward: bool) -> int:
    """Operations that torch dispatches for a batch: 2 per multiply-accumulate; attention as plain products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(images)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def vit_counted(config: ViTConfig, batch: int, backward: bool) -> int:
    with torch.device("meta"):
        model, images = ViT(config), torch.empty(batch, 3, config.image_size, config.image_size)
    return counted(model, images, backward)


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
@pytest.mark.parametrize("image_size", [32, 96])
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("representation_size", [None, 20])
def test_forward_equals_what_torch_counts(
    pooling: str, image_size: int, registers: int, representation_size: int | None
) -> None:
    shape = Variant(width=48, depth=3, mlp_dim=100, heads=4, patch=8)
    config = ViTConfig(shape, image_size, 11, pooling, representation_size, registers=registers)
    assert vit_counted(config, batch=2, backward=False) == 2 * 2 * forward_macs(config)


@pytest.mark.parametrize(
    "changes", [{"pos_embed": "none"}, {"pos_embed": "sincos2d"}, {"layer_scale": 0.1, "qk_norm": True}]
)
def test_parts_that_are_no_products_count_nothing(changes: dict[str, Any]) -> None:
    shape = Variant(width=48, depth=3, mlp_dim=100, heads=4, patch=8)
    config, plain = ViTConfig(shape, 32, 11, **changes), ViTConfig(shape, 32, 11)
    assert vit_counted(config, batch=2, backward=False) == 2 * 2 * forward_macs(config) == 4 * forward_macs(plain)


@given(
    shape=st.builds(
        lambda heads, per_head, depth, mlp: Variant(heads * per_head, depth, mlp, heads, 8),
        st.integers(1, 3),
        st.sampled_from([4, 8]),
        st.integers(1, 3),
        st.integers(1, 40),
    ),
    side=st.integers(1, 5),
    classes=st.integers(1, 9),
    pooling=st.sampled_from(["cls", "gap", "map"]),
    representation_size=st.none() | st.integers(1, 20),
    pos_embed=st.sampled_from(["learned", "none"]),
    registers=st.integers(0, 3),
    layer_scale=st.none() | st.just(0.1),
    qk_norm=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_vit_has_what_is_counted(shape: Variant, side: int, **choices: Any) -> None:
    config = ViTConfig(shape, 8 * side, **choices)
    with torch.device("meta"):
        assert vit_parameters(config) == sum(parameter.numel() for parameter in ViT(config).parameters())
    assert vit_counted(config, batch=2, backward=False) == 2 * 2 * forward_macs(config)


def test_training_is_three_forwards_but_for_the_images_gradient() -> None:
    config = ViTConfig(variant("vit-s/16"), 224, classes=1000)
    embed = 196 * 3 * 16**2 * config.variant.width  # nobody asks for the gradient of the pixels
    assert vit_counted(config, batch=1, backward=True) == train_flops(config) - 2 * embed


@pytest.mark.parametrize(("name", "image_size"), [("r50+vit-ti/16", 48), ("r50+vit-ti/32", 96)])
def test_a_hybrid_has_what_is_counted(name: str, image_size: int) -> None:
    config = ViTConfig(variant(name, depth=1), image_size, classes=11)
    stem = 7**2 * 3 * 64 * (image_size // 2) ** 2  # nobody asks for the gradient of the pixels
    assert vit_counted(config, batch=1, backward=True) == train_flops(config) - 2 * stem


@pytest.mark.parametrize("pooling", ["cls", "map"])
def test_patches_that_are_dropped_cost_nothing_in_training(pooling: str) -> None:
    shape = Variant(width=48, depth=3, mlp_dim=100, heads=4, patch=8)
    config = ViTConfig(shape, 32, 11, pooling, patch_dropout=0.5, registers=1)
    embed = 16 * 3 * 8**2 * 48
    assert vit_counted(config, batch=1, backward=True) == train_flops(config) - 2 * embed
    assert (
        forward_macs(config, training=True)
        < forward_macs(config)
        == forward_macs(ViTConfig(shape, 32, 11, pooling, registers=1))
    )


# -- the paper -------------------------------------------------------------------------------------------------


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
    total = JFT * epochs * train_flops(ViTConfig(variant(name), 224, classes=0))
    assert total / 1e18 == pytest.approx(exaflops, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "epochs", "exaflops", "off"),
    [
        ("r50+vit-b/32", 7, 106, 0.015),
        ("r50+vit-b/16", 7, 274, 0.000),
        ("r50+vit-l/32", 7, 246, 0.004),
        ("r50+vit-l/16", 7, 859, -0.029),  # which is more than half of the paper's own 14 epochs
        ("r50+vit-l/16", 14, 1_668, 0.000),
    ],
)
def test_hybrids_of_table_6(name: str, epochs: int, exaflops: int, off: float) -> None:
    total = JFT * epochs * train_flops(ViTConfig(variant(name), 224, classes=0))
    assert total / 1e18 / exaflops - 1 == pytest.approx(off, abs=0.0006)


def test_huge_on_jft() -> None:
    config = ViTConfig(variant("vit-h/14"), 224, classes=0)
    assert round(JFT * 14 * train_flops(config) / 1e18) == 4_258
    assert vit_parameters(ViTConfig(variant("vit-h/14"), 224, classes=1000)) == 632_045_800  # as transformers counts


@pytest.mark.parametrize(
    ("layers", "factor", "epochs", "exaflops", "off"),
    [
        (50, 1, 7, 50, -0.019),
        (50, 2, 7, 199, -0.029),
        (101, 1, 7, 96, 0.003),
        (152, 1, 7, 141, 0.018),
        (152, 2, 7, 563, 0.015),
        (152, 2, 14, 1_126, 0.015),
        (200, 3, 14, 3_306, 0.018),
    ],
)
def test_resnets_of_table_6(layers: int, factor: int, epochs: int, exaflops: int, off: float) -> None:
    """With the stride in the first convolution of a stage; in the 3x3 one, as in BiT's code, it is 3 to 4 % above."""
    first, in_3x3 = (
        JFT * epochs * ResNet.of_paper(layers, factor, there).train_flops(224, classes=0) / 1e18 / exaflops - 1
        for there in (False, True)
    )
    assert first == pytest.approx(off, abs=0.0006) and abs(first) < 0.03
    assert 0.029 < in_3x3 < 0.041


# -- BiT as transformers builds it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_type": "bottleneck"},
        {"depths": [1, 2, 1, 1], "hidden_sizes": [32, 64, 96, 200], "embedding_size": 24, "num_groups": 4},
        {"depths": [2, 1], "hidden_sizes": [32, 72], "embedding_size": 8, "num_groups": 2, "layer_type": "bottleneck"},
        {"global_padding": "same", "embedding_dynamic_padding": True},  # as the published ones
        {"global_padding": "same"},
        {"embedding_dynamic_padding": True},
    ],
)
@pytest.mark.parametrize("image_size", [32, 65, 96])
def test_a_bit_of_transformers_has_what_is_counted(changes: dict[str, Any], image_size: int) -> None:
    config = BitConfig(**changes, num_labels=11)
    resnet = resnet_of(config.to_dict())
    assert resnet is not None
    with torch.device("meta"):
        model, images = BitForImageClassification(config), torch.empty(2, 3, image_size, image_size)
    assert resnet.parameters(11) == sum(parameter.numel() for parameter in model.parameters())
    assert counted(Logits(model), images, backward=False) == 2 * 2 * resnet.forward_macs(image_size, 11)


class Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).logits


@pytest.mark.parametrize(
    "config", [{"model_type": "resnet"}, {"output_stride": 16}, {"global_padding": "valid"}, {"layer_type": "other"}]
)
def test_what_is_not_counted_is_not_guessed(config: dict[str, Any]) -> None:
    assert resnet_of({"model_type": "bit"} | config) is None


def test_peaks_by_the_name_that_the_driver_gives() -> None:
    assert device_peak("NVIDIA H100 80GB HBM3") == device_peak("NVIDIA H200") == 989e12
    assert device_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert device_peak("NVIDIA GeForce RTX 4090") is None
    assert device_peak("cpu") is None


def test_a_gpu_is_known_in_any_case() -> None:
    assert [known_gpu(name) for name in ("h200", "A100-40gb", "B200")] == ["H200", "A100-40GB", "B200"]
    assert known_gpu("H20") is known_gpu("") is None
