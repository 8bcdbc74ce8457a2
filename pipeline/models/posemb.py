"""Position embeddings: fixed ones, and learned ones at another resolution."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def sincos2d(side: int, width: int) -> Tensor:
    """float32 [side * side, width]: fixed embeddings of a grid's points, row by row (arXiv 2205.01580).

    A quarter each of sin and cos of x, then of y, at width / 4 frequencies from 1 down to 1 / 10,000, evenly in their
    logarithm: big_vision, models/vit.py, `posemb_sincos_2d`. `width` is a multiple of 4, from 8 on.
    """
    quarter = width // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / (quarter - 1))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # [side, quarter]
    x, y = angles.repeat(side, 1), angles.repeat_interleave(side, dim=0)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def resize_positions(positions: Tensor, tokens: int, prefix: int) -> Tensor:
    """[1, prefix + n * n, D] -> [1, tokens, D], tokens = prefix + m * m: the n x n grid resized to m x m.

    As the ViT paper has it (arXiv 2010.11929, section 3.2). Bilinear between grid points, corner to corner, as the
    authors' code (google-research/vision_transformer, checkpoint.py, `scipy.ndimage.zoom` of order 1). The first
    `prefix` positions, the class token's, stay.

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
