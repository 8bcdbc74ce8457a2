"""Floating point operations of a ViT, exactly, as arithmetic. Torch-free.

One multiply-accumulate is two operations; a backward pass costs twice a forward; recomputation is not counted
(so that MFU is model FLOPs). Checked against the ViT paper's table 6.
"""

from pipeline.models.variants import Variant


def forward_macs(variant: Variant, image_size: int, pooling: str, classes: int) -> int:
    """Multiply-accumulates of one image's forward pass: matrix products only, attention's included.

    Per block and token: 4 D^2 for q, k, v and the output projection, 2 D * mlp for the MLP, and 2 T D for the
    two products of attention with T tokens.
    """
    patches = (image_size // variant.patch) ** 2
    tokens = patches + (pooling == "cls")
    width, mlp = variant.width, variant.mlp_dim
    embed = patches * 3 * variant.patch**2 * width
    block = tokens * (4 * width**2 + 2 * width * mlp + 2 * tokens * width)
    return embed + variant.depth * block + width * classes


def train_flops(variant: Variant, image_size: int, pooling: str, classes: int) -> int:
    """Operations to train on one image: 2 per multiply-accumulate, forward and twice that backward."""
    return 6 * forward_macs(variant, image_size, pooling, classes)


# Dense bf16 peaks, operations per second, from the vendor's data sheets.
PEAK_BF16 = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


def device_peak(device_name: str) -> float | None:
    """Peak of a GPU by its marketing name, or None where it is not known (then MFU is not reported)."""
    return next((peak for model, peak in PEAK_BF16.items() if model in device_name), None)
