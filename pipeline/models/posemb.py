"""Position embeddings at another resolution, as the ViT paper has it (arXiv 2010.11929, section 3.2)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_positions(positions: Tensor, tokens: int, prefix: int) -> Tensor:
    """[1, prefix + n * n, D] -> [1, tokens, D], tokens = prefix + m * m: the n x n grid resized to m x m.

    Bilinear between grid points, corner to corner, as the authors' code (google-research/vision_transformer,
    checkpoint.py, `scipy.ndimage.zoom` of order 1). The first `prefix` positions, the class token's, stay.

    Raises:
        ValueError: a grid that is not square.
    """
    old, new = math.isqrt(positions.shape[1] - prefix), math.isqrt(tokens - prefix)
    if old * old != positions.shape[1] - prefix or new * new != tokens - prefix:
        raise ValueError(f"{positions.shape[1] - prefix} and {tokens - prefix} positions are not square grids")
    kept, grid = positions[:, :prefix], positions[:, prefix:]
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=True)
    return torch.cat([kept, grid.flatten(2).transpose(1, 2)], dim=1)
