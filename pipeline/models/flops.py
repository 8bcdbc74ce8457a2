"""Floating point operations of a model, exactly, as arithmetic. Torch-free.

One multiply-accumulate is two operations; a backward pass costs twice a forward; recomputation is not counted
(so that MFU is model FLOPs). Only products are counted: of matrices, attention's included, and convolutions. Checked
against torch's own counter, and against the ViT paper's table 6.
"""

from pipeline.models.variants import ViTConfig


def forward_macs(config: ViTConfig, training: bool = False) -> int:
    """Multiply-accumulates of one image's forward pass; in training, patch dropout leaves tokens out.

    Per block and token: 4 D^2 for q, k, v and the output projection, 2 D * mlp for the MLP, and 2 T D for the
    two products of attention with T tokens. Patches are embedded before some are dropped; a ResNet sees all of them.
    """
    variant = config.variant
    width, mlp = variant.width, variant.mlp_dim
    patches = config.kept_patches if training else config.patches
    tokens = patches + config.class_tokens + config.registers
    channels, side = variant.embedded
    embed = config.patches * channels * side**2 * width
    if variant.resnet is not None:
        embed += variant.resnet.forward_macs(config.image_size)
    block = tokens * (4 * width**2 + 2 * width * mlp + 2 * tokens * width)
    return embed + variant.depth * block + _head_macs(config, patches)


def _head_macs(config: ViTConfig, patches: int) -> int:
    """What turns the last block's tokens into logits.

    MAP: one query looks at all patches: 2 D^2 for the query and the output projection, 2 D^2 for each patch's key and
    value, 2 D for each patch in attention's products, then an MLP on what comes out.
    """
    width, seen = config.variant.width, config.representation_size or config.variant.width
    macs = seen * config.classes
    if config.representation_size:
        macs += width * seen
    if config.pooling == "map":
        macs += 2 * width**2 + patches * (2 * width**2 + 2 * width) + 2 * width * config.variant.mlp_dim
    return macs


def train_flops(config: ViTConfig) -> int:
    """Operations to train on one image: 2 per multiply-accumulate, forward and twice that backward."""
    return 6 * forward_macs(config, training=True)
