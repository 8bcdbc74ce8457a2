"""Mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899): who is mixed with whom,
and how much. Plain numpy; mixing.py does it on the device.

The slots of a global batch are paired, s with s XOR 1, whatever rank or micro-batch they lie in; the last slot of an
odd number has no partner and is not mixed. Both of a pair share lambda and box, drawn by the key (seed, consumed
count of the pair's even slot). Nothing depends on topology, and there is no random state.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config import Augment
from pipeline.data.keyed import keyed, uniform

NOBODY = -1
_MIX = 20  # domain of the hash


@dataclass(frozen=True)
class MixPlan:
    """How each slot of a micro-batch is mixed: lam of itself and 1 - lam of its partner, in pixels and in loss.

    CutMix has a box, in which the pixels are the partner's and outside of which they are its own; then 1 - lam is the
    box's share of the image. Mixup has none (zeros). A slot that is not mixed has lam 1 and no box.
    """

    lam: np.ndarray  # float32 [n]
    box: np.ndarray  # int64 [n, 4]: left, top, width, height in pixels
    partner_slot: np.ndarray  # int64 [n]: slot in the global batch, NOBODY for none


def mix_plan(
    augment: Augment, seed: int, positions: np.ndarray, slots: np.ndarray, count: int, image_size: int
) -> MixPlan:
    """The plan for some slots of a global batch of `count` samples.

    Args:
        positions: int64 [n], samples that the run had used before each slot's (its consumed count).
        slots: int64 [n], where in the global batch each is; negative or from `count` on is padding.
    """
    partner = slots ^ 1
    alone = (slots < 0) | (slots >= count) | (partner >= count) | (not augment.mixes)
    draws = uniform(keyed(seed, _MIX, positions - (slots & 1)), 5)
    cuts = draws[:, 0] < (augment.cutmix > 0) * (0.5 if augment.mixup > 0 else 1.0)
    alpha = np.where(cuts, augment.cutmix, augment.mixup)
    lam = symmetric_beta(draws[:, 1], draws[:, 2], np.where(alone, 1.0, alpha))
    box = np.where((cuts & ~alone)[:, None], _cut(lam, draws[:, 3:], image_size), 0)
    lam = np.where(cuts, 1.0 - box[:, 2] * box[:, 3] / image_size**2, lam)
    return MixPlan(np.where(alone, 1.0, lam).astype(np.float32), box, np.where(alone, NOBODY, partner))


def symmetric_beta(u: np.ndarray, v: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Beta(alpha, alpha), any alpha > 0, from two independent uniform numbers in [0, 1): float64, exact, no rejection.

    For T of Student's t distribution with 2 alpha degrees of freedom, (1 + T / sqrt(2 alpha + T^2)) / 2 is
    Beta(alpha, alpha). Bailey (1994, Math. Comp. 62) gives T = sqrt(2 alpha (U^(-1/alpha) - 1)) cos(2 pi V). With
    p = U^(1/alpha), c = cos(2 pi V) and q = p + c^2 (1 - p), 2 alpha cancels and T / sqrt(2 alpha + T^2) = +-y with
    y^2 = 1 - p / q. The smaller of the two shares, (1 - y) / 2 = p / q / (1 + y) / 2, is taken without cancellation.
    """
    log_p = np.log1p(-u) / alpha  # 1 - u is as uniform as u, and never 0
    c = np.cos(2.0 * np.pi * v)
    p, spread = np.exp(log_p), -np.expm1(log_p) * c * c
    y = np.sqrt(spread / (p + spread))
    smaller = p / (p + spread) / (1.0 + y) / 2.0
    return np.where(c < 0, smaller, 1.0 - smaller)


def without_holes(
    lam: np.ndarray, box: np.ndarray, partner: np.ndarray, readable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lam [n], box [n, 4], partner [n]) in which no pair with a hole in it is mixed.

    Args:
        partner: int64 [n], the row of each one's partner, maybe a guest behind the n; its own for none.
        readable: bool [n + guests], false for holes and padding.
    """
    rows = np.arange(len(lam))
    whole = readable[rows] & readable[partner]
    return np.where(whole, lam, np.float32(1)), np.where(whole[:, None], box, 0), np.where(whole, partner, rows)


def _cut(lam: np.ndarray, centres: np.ndarray, image_size: int) -> np.ndarray:
    """int64 [n, 4]: squares of area 1 - lam about `centres` (float64 [n, 2] in [0, 1)), cut off at the edges."""
    half = (np.floor(image_size * np.sqrt(1.0 - lam)) // 2)[:, None]
    centre = np.floor(centres * image_size)
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, image_size)
    return np.concatenate([low, high - low], axis=1).astype(np.int64)
