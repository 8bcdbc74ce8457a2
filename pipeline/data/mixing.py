"""Mixup and CutMix on the device, as mix.py has planned them. Nothing here waits for the device."""

from typing import Protocol

import torch
from torch import Tensor

from pipeline.loss import sample_losses, target_losses, targets_of


class Mix(Protocol):
    """How the B samples of a micro-batch are mixed (see MixPlan), on the device of the images."""

    partner: Tensor  # int64 [B]: row in the images; its own where it has no partner
    lam: Tensor  # float32 [B]
    box: Tensor  # int64 [B, 4]: left, top, width, height


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """float32 [B, H, W, 3] from images [B + guests, H, W, 3] of any type, before or after they are normalised.

    A pixel is w times its own and 1 - w times the partner's: w is lam, or with a box 0 inside and 1 outside.
    """
    height, width = images.shape[1:3]
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    left, top, box_width, box_height = mix.box[:, :, None].unbind(dim=1)  # each [B, 1]
    in_columns = (x >= left) & (x < left + box_width)
    in_rows = (y >= top) & (y < top + box_height)
    outside = ~(in_rows[:, :, None] & in_columns[:, None, :])
    has_box = (box_width * box_height > 0)[:, :, None]
    weight = torch.where(has_box, outside, mix.lam[:, None, None])[..., None]
    return images[: len(mix.lam)] * weight + images[mix.partner] * (1.0 - weight)


def mixed_losses(logits: Tensor, labels: Tensor, mix: Mix, loss: str, label_smoothing: float) -> Tensor:
    """float32 [B] from logits [B, classes] of mixed images and labels of B + guests images; see `sample_losses`.

    The loss against the mixed target, lam y + (1 - lam) y', exactly: softmax and sigmoid are affine in their target, as
    smoothing is, so the loss of the mean is the mean of the losses. bce takes both labels wholly,
    however little there is to see of one (facebookresearch/deit, engine.py: `targets.gt(0.0)`).
    """
    if loss == "bce":
        targets = targets_of(labels, logits.shape[1], loss)
        lam = mix.lam[:, None]
        present = lam * targets[: len(mix.lam)] + (1.0 - lam) * targets[mix.partner] > 0
        return target_losses(logits, present.float(), loss, label_smoothing)
    own = sample_losses(logits, labels[: len(mix.lam)], loss, label_smoothing)
    partners = sample_losses(logits, labels[mix.partner], loss, label_smoothing)
    return mix.lam * own + (1.0 - mix.lam) * partners
