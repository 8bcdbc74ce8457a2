"""Bytes that a ViT's forward pass keeps for its backward pass, as arithmetic. Torch-free.

What autograd keeps of a block, for T tokens of width D, an MLP of M, and elements of s bytes (tests compare it with
what torch really keeps; compiled blocks keep as much):

    the inputs of both norms, and what comes out of them                4 T D s
    q, k and v, and what attention gives                                4 T D s
    the MLP's hidden layer, before and after GELU                       2 T M s
    LayerScale: both branches before they are scaled                    2 T D s
    normalised q and k, and what attention gives in another layout      3 T D s, and 4 numbers per head and token
    dropout: three masks (on a GPU a byte for each element, not s)      T (2 D + M) s
    one number per head and token of the softmax, in fp32               4 T heads
    mean and deviation of both norms                                    4 T s

A block that is recomputed keeps its input only, which is T D s; one block at a time is whole then.

Of a hybrid's ResNet, with c channels of n pixels a side: what goes into a convolution, into a group norm and out of a
ReLU, c n^2 s each, where the last of one layer may be the first of the next; before a stride it is kept padded, too.
The max pooling keeps a place of 8 bytes for each number that it gives.
"""

from pipeline.models.resnet import ResNet
from pipeline.models.variants import ViTConfig


def block_bytes(config: ViTConfig, size: int) -> int:
    """Of one image and block, with elements of `size` bytes."""
    variant = config.variant
    width, tokens = variant.width, tokens_of(config)
    each = size * (8 * width + 2 * variant.mlp_dim + 4) + 4 * variant.heads
    if config.layer_scale is not None:
        each += size * 2 * width
    if config.qk_norm:
        each += size * (3 * width + 4 * variant.heads)
    if config.dropout:
        each += size * (2 * width + variant.mlp_dim)
    return tokens * each


def activation_bytes(config: ViTConfig, size: int, recomputed: int = 0) -> int:
    """Of one image: all blocks, of which the first `recomputed` keep their input only, and what is around them.

    Around: the image's pixels, normalised, or what a ResNet keeps; what the last norm gets; a mask of the embedded
    patches.
    """
    depth, width = config.variant.depth, config.variant.width
    tokens = tokens_of(config)
    resnet, pixels = config.variant.resnet, config.image_size**2
    around = (2 if config.dropout else 1) * tokens * width * size
    around += 3 * pixels * size if resnet is None else _resnet_bytes(resnet, config.image_size, size)
    if recomputed:
        around += block_bytes(config, size)  # of the one that is being recomputed
    return around + (depth - recomputed) * block_bytes(config, size) + recomputed * tokens * width * size


def kernel_bytes(config: ViTConfig, size: int) -> int:
    """Of a hybrid's standardised kernels, which a micro-batch keeps once for all of its images."""
    resnet = config.variant.resnet
    return size * sum(conv.parameters for conv in resnet.convolutions(config.image_size)) if resnet else 0


def _resnet_bytes(resnet: ResNet, image_size: int, size: int) -> int:
    """Of one image: the pixels, padded, the stem and all bottlenecks, the features that are embedded included."""
    channels, side = resnet.embedding_size, image_size // 2
    numbers = 3 * (image_size + 5) ** 2 + channels * (2 * side**2 + (side + 1) ** 2 + (side // 2) ** 2)
    for unit in resnet.units(image_size):
        numbers += 2 * unit.middle * (unit.before**2 + unit.side**2) + 2 * unit.outputs * unit.side**2
        if unit.stride > 1:
            numbers += unit.middle * (unit.before + 1) ** 2
        if unit.is_first:
            numbers += unit.outputs * unit.side**2  # the shortcut's
    return size * numbers + 8 * channels * (side // 2) ** 2


def tokens_of(config: ViTConfig) -> int:
    """Of an image in training."""
    return config.kept_patches + config.class_tokens + config.registers
