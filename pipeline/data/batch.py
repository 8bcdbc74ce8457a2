"""What one forward pass takes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.data.ledger import Account
from pipeline.data.sample import Hole
from pipeline.dataset.remote.traffic import Fetched


@dataclass
class Mix:
    """Mixup and CutMix of a micro-batch, drawn by mix.py and done on the device."""

    partner: Tensor  # int64 [B]: row of `images` that is mixed in
    lam: Tensor  # float32 [B]: this image's share; 1 where nothing is mixed
    box: Tensor  # int64 [B, 4]: left, top, width, height of the partner's pixels; zeros for Mixup


@dataclass
class StageTimes:
    """What a micro-batch took, of the worker that took longest. All in seconds of wall time."""

    read_s: float = 0.0  # waiting for bytes
    decode_s: float = 0.0  # decoding, augmenting, writing pixels
    copy_s: float = 0.0  # what the rank does itself: gathering, and copying to the device
    images: int = 0  # of the whole micro-batch


@dataclass
class MicroBatch:
    """A hole or a padding slot has weight 0, label 0 (or none) and black pixels.

    Guests, behind the B images that are trained on, are there to be mixed in: their slots are another micro-batch's,
    or another rank's.
    """

    images: Tensor  # uint8 [B + guests, S, S, 3]
    labels: Tensor  # int64 [B + guests]; or uint8 [B + guests, ceil(classes / 8)], of several labels per image
    weights: Tensor  # float32 [B]: 1 or 0
    rows: Tensor  # int64 [accounts touched by the global batch, ROW]: the ledger's; stays on the CPU
    holes: list[tuple[Account, Hole]]
    times: StageTimes
    mix: Mix | None = None
    fetched: Fetched = field(default_factory=Fetched)  # from afar while it was made, for later ones too

    def tensors(self) -> list[Tensor]:
        """All that lies on the device."""
        mixing = [self.mix.partner, self.mix.lam, self.mix.box] if self.mix else []
        return [self.images, self.labels, self.weights, *mixing]

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy on a GPU, on the current stream; on the CPU the same memory."""
        images, labels, weights = (t.to(device, non_blocking=True) for t in (self.images, self.labels, self.weights))
        mix = self.mix
        if mix is not None:
            mix = Mix(*(t.to(device, non_blocking=True) for t in (mix.partner, mix.lam, mix.box)))
        return MicroBatch(images, labels, weights, self.rows, self.holes, self.times, mix, self.fetched)
