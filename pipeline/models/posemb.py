"""Position embeddings: fixed ones, and learned ones at another resolution."""

import math
from functools import lru_cache

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


def fixed_positions(side: int, width: int, prefix: int) -> Tensor:
    """float32 [1, prefix + side * side, width]: `sincos2d`; a class token's, the first `prefix`, are zero."""
    return F.pad(sincos2d(side, width), (0, 0, prefix, 0))[None]


@lru_cache(maxsize=8)
def fixed_positions_on(device: torch.device, side: int, width: int, prefix: int) -> Tensor:
    """The same on a device, which is sent there once."""
    return fixed_positions(side, width, prefix).to(device)


def resize_positions(positions: Tensor, tokens: int, prefix: int) -> Tensor:
    """[1, prefix + n * n, D] -> [1, tokens, D], tokens = prefix + m * m: the n x n grid resized to m x m.

    As the ViT paper has it (arXiv 2010.11929, section 3.2). Bilinear between grid points, corner to corner, as the
    authors' code (google-research/vision_transformer, checkpoint.py, `scipy.ndimage.zoom` of order 1). The first
    `prefix` positions, the class token's, stay. Computed in float32, and returned so.

    Linear and separable: with R, [m, n], along either side, the new grid is R grid R^T. Two products of matrices have,
    unlike torch's `interpolate`, gradients that are the same at every run on a GPU.

    Raises:
        ValueError: a grid that is not square.
    """
    old, new = math.isqrt(positions.shape[1] - prefix), math.isqrt(tokens - prefix)
    if old * old != positions.shape[1] - prefix or new * new != tokens - prefix:
        raise ValueError(f"{positions.shape[1] - prefix} and {tokens - prefix} positions are not square grids")
    positions = positions.float()
    kept, grid = positions[:, :prefix], positions[0, prefix:].view(old, old, -1)
    weights = _between(old, new, positions.device)
    resized = torch.einsum("xj,yjd->yxd", weights, torch.einsum("yi,ijd->yjd", weights, grid))
    return torch.cat([kept, resized.flatten(0, 1)[None]], dim=1)


def _between(old: int, new: int, device: torch.device) -> Tensor:
    """float32 [new, old]: new point k lies at p = k (old - 1) / (new - 1), and takes max(0, 1 - |p - i|) of point i.

    Made on the device from nothing, so that the host need not wait.
    """
    p = torch.arange(new, dtype=torch.float64, device=device) * ((old - 1) / max(1, new - 1))
    points = torch.arange(old, dtype=torch.float64, device=device)
    return (1.0 - (p[:, None] - points).abs()).clamp_min(0.0).float()
