"""The ResNet below a hybrid's ViT: against transformers' BiT, and how it begins."""

import pytest
import torch
from transformers import BitConfig, BitModel

from pipeline.models.architecture import vit_parameters
from pipeline.models.backbone import Backbone
from pipeline.models.posemb import resize_positions
from pipeline.models.resnet import ResNet
from pipeline.models.variants import ViTConfig, variant
from pipeline.models.vit import ViT
from tests.models.hybrid import HYBRID

pytestmark = pytest.mark.fast


def theirs(resnet: ResNet, ours: Backbone) -> BitModel:
    """transformers' with the same weights: norms after convolutions, TensorFlow's padding, our epsilons."""
    sizes = {"depths": resnet.depths, "hidden_sizes": resnet.hidden_sizes, "embedding_size": resnet.embedding_size}
    padding = {"global_padding": "same", "embedding_dynamic_padding": True}
    model = BitModel(BitConfig(layer_type="bottleneck", **sizes, **padding)).eval()
    for part in model.modules():
        if hasattr(part, "eps"):
            part.eps = 1e-6 if isinstance(part, torch.nn.GroupNorm) else 1e-10
    renamed = {"conv.": "embedder.convolution.", "norm.": "embedder.norm."}
    state = {}
    for name, tensor in ours.state_dict().items():
        if name.startswith("stages."):
            _, stage, number, layer, kind = name.split(".")
            layer = {"conv_shortcut": "downsample.conv", "norm_shortcut": "downsample.norm"}.get(layer, layer)
            name = f"encoder.stages.{stage}.layers.{number}.{layer}.{kind}"
        else:
            name = next(new + name.removeprefix(old) for old, new in renamed.items() if name.startswith(old))
        state[name] = tensor
    model.load_state_dict(state)
    return model


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=random)
    return model


@pytest.mark.parametrize(("depths", "size"), [((2, 1, 2), 48), ((1, 2, 1, 1), 96)])
@torch.no_grad()
def test_features_are_those_of_transformers(depths: tuple[int, ...], size: int) -> None:
    resnet = ResNet.below_vit(depths, width=32)
    ours = scrambled(Backbone(resnet))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    features, expected = ours(images), theirs(resnet, ours)(images).last_hidden_state
    assert features.shape == expected.shape == (2, resnet.hidden_sizes[-1], 3, 3)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4) and features.std() > 0.1


@torch.no_grad()
def test_a_hybrid_is_a_vit_of_the_features_points_at_any_size() -> None:
    config = ViTConfig(variant(**{key: value for key, value in HYBRID.items() if key != "image_size"}), 48, classes=5)
    model = scrambled(ViT(config)).eval()
    images, larger = (torch.randn(2, 3, n, n, generator=torch.Generator().manual_seed(2)) for n in (48, 64))
    features = model.backbone(images)
    tokens = features.flatten(2).mT @ model.patch_embed.weight[:, :, 0, 0].T + model.patch_embed.bias
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1) + model.pos_embed
    for block in model.blocks:
        tokens = block(tokens)
    assert torch.allclose(model(images), model.head(model.norm(tokens)[:, 0]), atol=1e-5)
    resized = ViT(ViTConfig(config.variant, 64, classes=5)).eval()
    resized.load_state_dict(model.state_dict() | {"pos_embed": resize_positions(model.pos_embed, 17, prefix=1)})
    assert torch.allclose(model(larger), resized(larger), atol=1e-5)


def test_branches_begin_as_nothing_and_all_from_the_seed() -> None:
    config = ViTConfig(variant("r50+vit-ti/16", depth=1), 32, classes=5)
    one, same, other = (ViT(config).initialise(seed).backbone for seed in (3, 3, 4))
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        if "conv" in name:
            assert not torch.equal(a, c) and float(a.std()) == pytest.approx(a[0].numel() ** -0.5, rel=0.03), name
        else:
            assert (a == float(name.endswith("weight") and "norm3" not in name)).all(), name


@pytest.mark.parametrize(("name", "parameters"), [("r50+vit-b/16", 98_950_952), ("r50+vit-l/32", 329_092_136)])
def test_as_many_parameters_as_timm_has(name: str, parameters: int) -> None:
    """98.95 and 329.09 million: vit_base_r50_s16_384 and vit_large_r50_s32_384 in pytorch-image-models,
    results/benchmark-infer-amp-nchw-pt110-cu113-rtx3090.csv.
    """
    assert vit_parameters(ViTConfig(variant(name), 384, classes=1000)) == parameters
