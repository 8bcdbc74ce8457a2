"""Losses, per sample: the step weighs them and divides by the global count of real samples.

    softmax  cross-entropy
    sigmoid  binary cross-entropies summed over the classes, as in the ViT authors' code (big_vision, `sigmoid_xent`)
    bce      binary cross-entropies averaged over the classes, as in DeiT-III; of a mixed image both labels are there

Labels are int64 [B], one per image, or uint8 [B, ceil(classes / 8)], any number of them as bits (data/ring.py).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_losses(logits: Tensor, labels: Tensor, loss: str, label_smoothing: float) -> Tensor:
    """float32 [B] from logits [B, classes] of any dtype and labels. Raises ValueError for a loss that is none.

    Label smoothing moves that share of the target to all classes evenly.
    """
    if labels.ndim == 1 and loss == "softmax":
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    return target_losses(logits, targets_of(labels, logits.shape[1], loss), loss, label_smoothing)


def target_losses(logits: Tensor, targets: Tensor, loss: str, label_smoothing: float) -> Tensor:
    """float32 [B] from logits [B, classes] and soft labels, float32 [B, classes]: any share of each class."""
    logits = logits.float()
    targets = targets * (1.0 - label_smoothing) + label_smoothing / logits.shape[1]
    match loss:
        case "softmax":
            return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)
        case "sigmoid":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
        case "bce":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    raise ValueError(loss)


def targets_of(labels: Tensor, classes: int, loss: str) -> Tensor:
    """float32 [B, classes]: 1 for each label; for softmax, shared evenly by an image's labels (0 where it has none)."""
    if labels.ndim == 1:
        return F.one_hot(labels, classes).float()
    targets = bits(labels, classes).float()
    return targets / targets.sum(dim=1, keepdim=True).clamp(min=1.0) if loss == "softmax" else targets


def bits(packed: Tensor, classes: int) -> Tensor:
    """uint8 [B, classes] of 0 and 1 from uint8 [B, ceil(classes / 8)], as numpy.packbits writes them."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] >> shifts) & 1).flatten(1)[:, :classes]


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [B]: 1 where the most likely class is the image's label, or one of its labels."""
    best = logits.argmax(dim=1)
    if labels.ndim == 1:
        return (best == labels).float()
    return bits(labels, logits.shape[1]).gather(1, best[:, None])[:, 0].float()


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [B, H, W, 3] on the device -> [B, 3, H, W] in [-1, 1], the range of the ViT authors' code."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).to(dtype)
