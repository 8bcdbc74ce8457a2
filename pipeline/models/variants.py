"""One table from a model's name to its numbers, and nowhere else. Torch-free."""

import re
from dataclasses import dataclass, replace

from pipeline.dataset.errors import UsageError
from pipeline.models.resnet import ResNet


@dataclass(frozen=True)
class Variant:
    """Shape of a ViT, plain or with a ResNet below it. The head dimension is width / heads."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch: int = 16  # pixels of an image a side; of a hybrid, the ResNet's stride
    resnet: ResNet | None = None

    @property
    def embedded(self) -> tuple[int, int]:
        """What of a patch is embedded: channels, and points a side. Of a hybrid, one point of the ResNet's features."""
        return (self.resnet.hidden_sizes[-1], 1) if self.resnet else (3, self.patch)


@dataclass(frozen=True)
class ViTConfig:
    """All that makes a ViT of ours: its shape, its parts, and the noise that it is trained with."""

    variant: Variant
    image_size: int
    classes: int
    pooling: str = "cls"  # or "gap", "map"
    representation_size: int | None = None
    head_bias: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    patch_dropout: float = 0.0
    pos_embed: str = "learned"  # or "sincos2d", "none"
    registers: int = 0
    layer_scale: float | None = None
    qk_norm: bool = False

    @property
    def patches(self) -> int:
        return (self.image_size // self.variant.patch) ** 2

    @property
    def kept_patches(self) -> int:
        """Of an image in training: all but those that patch dropout leaves out."""
        return kept_patches(self.patches, self.patch_dropout)

    @property
    def class_tokens(self) -> int:
        return int(self.pooling == "cls")


def kept_patches(patches: int, dropout: float) -> int:
    """Of so many: all but those that patch dropout leaves out."""
    return max(1, round(patches * (1.0 - dropout)))


# B, L, H: the ViT paper's table 1 (arXiv 2010.11929). Ti, S: DeiT (arXiv 2012.12877), table 1. g: "Scaling Vision
# Transformers" (arXiv 2106.04560), table 2.
SIZES = {
    "ti": Variant(width=192, depth=12, mlp_dim=768, heads=3),
    "s": Variant(width=384, depth=12, mlp_dim=1536, heads=6),
    "b": Variant(width=768, depth=12, mlp_dim=3072, heads=12),
    "l": Variant(width=1024, depth=24, mlp_dim=4096, heads=16),
    "h": Variant(width=1280, depth=32, mlp_dim=5120, heads=16),
    "g": Variant(width=1408, depth=40, mlp_dim=6144, heads=16),
}

# Hybrids, section 4.1 of the ViT paper: a ResNet-50, by its stride; of 16, the layers of stage 4 are in stage 3.
RESNETS = {"r50": {16: ResNet.below_vit((3, 4, 9)), 32: ResNet.below_vit((3, 4, 6, 3))}}


def variant(
    name: str,
    width: int | None = None,
    depth: int | None = None,
    mlp_dim: int | None = None,
    heads: int | None = None,
) -> Variant:
    """`vit-h/14` or `r50+vit-b/16` -> its numbers, with single ones of the ViT overridden.

    Raises:
        UsageError: a name that is none, or heads that do not divide the width.
    """
    match = re.fullmatch(r"(?:(r\d+)\+)?vit-([a-z]+)/([1-9]\d*)", name)
    below = RESNETS.get(match[1], {}) if match and match[1] else None
    patch = int(match[3]) if match else 0
    if not match or match[2] not in SIZES or (below is not None and patch not in below):
        sizes = ", ".join(SIZES)
        raise UsageError(
            f"model.name: {name} is not vit-SIZE/PATCH with SIZE one of {sizes}, r50+vit-SIZE/16 or r50+vit-SIZE/32; "
            "nor hf:FOLDER, of a config.json"
        )
    overrides = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "heads": heads}
    given = {key: value for key, value in overrides.items() if value is not None}
    chosen = replace(SIZES[match[2]], patch=patch, resnet=below[patch] if below else None, **given)
    if chosen.width % chosen.heads:
        raise UsageError(f"model.heads: {chosen.heads} heads do not divide the width, {chosen.width}")
    return chosen
