"""Losses, per sample: the step weighs them and divides by the global count of real samples."""

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_losses(logits: Tensor, labels: Tensor, loss: str, label_smoothing: float) -> Tensor:
    """float32 [B] from logits [B, classes] of any dtype and labels int64 [B].

    softmax: cross-entropy. sigmoid: binary cross-entropies summed over the classes, as in the ViT authors' code
    (big_vision, `sigmoid_xent`). Label smoothing moves that share of the target to all classes evenly.
    """
    logits = logits.float()
    if loss == "softmax":
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    classes = logits.shape[1]
    targets = F.one_hot(labels, classes).to(logits.dtype)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / classes
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [B, H, W, 3] on the device -> [B, 3, H, W] in [-1, 1], the range of the ViT authors' code."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).to(dtype)
