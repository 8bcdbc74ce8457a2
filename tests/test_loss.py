"""Losses against the formulas, written out with plain torch and numpy."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.data.mixing import mixed_losses
from pipeline.data.ring import Ring, Shape
from pipeline.loss import bits, hits, sample_losses, target_losses, targets_of

pytestmark = pytest.mark.fast
LOSSES = ("softmax", "sigmoid", "bce")
BATCH, CLASSES = 6, 11


@dataclass
class Mixed:
    partner: torch.Tensor
    lam: torch.Tensor
    box: torch.Tensor


def reference(loss: str, logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """In float64, from the definitions."""
    x, y = logits.double(), targets.double() * (1 - smoothing) + smoothing / logits.shape[1]
    if loss == "softmax":
        return -(y * (x - x.exp().sum(dim=1, keepdim=True).log())).sum(dim=1)
    p = 1 / (1 + (-x).exp())
    each = -(y * p.log() + (1 - y) * (1 - p).log())
    return each.sum(dim=1) if loss == "sigmoid" else each.mean(dim=1)


def random(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, ...]]]:
    """(logits [B, C], labels [B], sets of labels)."""
    rng = np.random.default_rng(seed)
    sets = [tuple(np.flatnonzero(rng.random(CLASSES) < 0.3).tolist()) for _ in range(BATCH - 1)]
    logits = torch.from_numpy(rng.normal(size=(BATCH, CLASSES)) * 3).float()
    return logits, torch.from_numpy(rng.integers(CLASSES, size=BATCH)), [*sets, ()]


def packed(sets: list[tuple[int, ...]], classes: int = CLASSES) -> torch.Tensor:
    """As the loader's ring has them."""
    slot = Ring(Shape(slots=1, rows=len(sets), size=1, several=classes)).slot(0)
    for row, labels in enumerate(sets):
        slot.set_labels(row, labels)
    return torch.from_numpy(slot.labels.copy())


def multi_hot(sets: list[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor([[float(c in labels) for c in range(CLASSES)] for labels in sets])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_label_per_image(loss: str, smoothing: float) -> None:
    logits, labels, _ = random()
    expected = reference(loss, logits, F.one_hot(labels, CLASSES), smoothing)
    torch.testing.assert_close(sample_losses(logits, labels, loss, smoothing).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_several_labels_per_image(loss: str, smoothing: float) -> None:
    """For softmax, an image's labels share it; one without labels teaches nothing but smoothness."""
    logits, _, sets = random(1)
    targets = multi_hot(sets)
    if loss == "softmax":
        targets = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
    found = sample_losses(logits, packed(sets), loss, smoothing)
    torch.testing.assert_close(found.double(), reference(loss, logits, targets, smoothing), rtol=1e-5, atol=1e-6)
    assert smoothing or loss != "softmax" or found[-1] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_soft_labels(loss: str) -> None:
    logits, _, _ = random(2)
    targets = torch.softmax(random(3)[0], dim=1)
    torch.testing.assert_close(
        target_losses(logits, targets, loss, 0.0).double(), reference(loss, logits, targets), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_labels_are_soft_labels_and_for_bce_both_are_there(loss: str, several: bool) -> None:
    logits, labels, sets = random(4)
    given_labels = packed(sets) if several else labels
    partner = torch.tensor([1, 0, 3, 2, 5, 5])
    lam = torch.tensor([0.3, 0.3, 1.0, 0.0, 0.6, 1.0])
    mix = Mixed(partner, lam, torch.zeros(BATCH, 4, dtype=torch.int64))
    own = targets_of(given_labels, CLASSES, loss)
    targets = lam[:, None] * own + (1 - lam[:, None]) * own[partner]
    if loss == "bce":  # facebookresearch/deit, engine.py
        targets = targets.gt(0.0).type(targets.dtype)
    expected = reference(loss, logits, targets, 0.1)
    found = mixed_losses(logits, given_labels, mix, loss, 0.1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_bce_is_torchs_mean() -> None:
    """timm and DeiT take torch's mean over batch and classes."""
    logits, labels, _ = random(5)
    expected = torch.nn.BCEWithLogitsLoss()(logits, F.one_hot(labels, CLASSES).float())
    torch.testing.assert_close(sample_losses(logits, labels, "bce", 0.0).mean(), expected)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), classes=st.integers(1, 40))
def test_bits_are_the_labels(data: st.DataObject, classes: int) -> None:
    sets = data.draw(st.lists(st.sets(st.integers(0, classes - 1)).map(tuple), min_size=1, max_size=5))
    found = packed(sets, classes)
    dense = np.array([[c in labels for c in range(classes)] for labels in sets], np.uint8)
    assert np.array_equal(found.numpy(), np.packbits(dense, axis=1))
    assert np.array_equal(bits(found, classes).numpy(), dense)


def test_a_hit_is_any_of_an_images_labels() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert hits(logits, torch.tensor([1, 1, 2])).tolist() == [1, 0, 1]
    assert hits(logits, packed([(0, 1), (1, 2), ()], classes=3)).tolist() == [1, 0, 0]
