"""Losses per sample, and pixels to the model's range."""

import math

import pytest
import torch

from pipeline.loss import normalise, sample_losses

pytestmark = pytest.mark.fast


def test_softmax_is_the_log_likelihood() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([2, 0])
    total = math.exp(1) + math.exp(2) + math.exp(3)
    assert sample_losses(logits, labels, "softmax", 0.0).tolist() == pytest.approx(
        [-math.log(math.exp(3) / total), math.log(3)]
    )
    smooth = sample_losses(logits, labels, "softmax", 0.3)
    by_class = [-math.log(math.exp(n) / total) for n in (1, 2, 3)]
    assert float(smooth[0]) == pytest.approx(0.7 * by_class[2] + 0.1 * sum(by_class))


def test_sigmoid_adds_up_over_the_classes() -> None:
    logits, labels = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([1])

    def cross_entropy(logit: float, target: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    for smoothing, targets in ((0.0, (0, 1, 0)), (0.3, (0.1, 0.8, 0.1))):
        expected = sum(cross_entropy(x, t) for x, t in zip((1.0, -2.0, 0.5), targets, strict=True))
        assert float(sample_losses(logits, labels, "sigmoid", smoothing)[0]) == pytest.approx(expected)


def test_a_head_bias_of_minus_10_starts_sigmoid_near_its_label() -> None:
    losses = sample_losses(torch.full((2, 18_000), -10.0), torch.tensor([0, 17_999]), "sigmoid", 0.0)
    assert losses.tolist() == pytest.approx([10.0 + 18_000 * math.log1p(math.exp(-10))] * 2, rel=1e-3)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_are_float32_per_sample_whatever_the_logits(loss: str) -> None:
    logits = torch.randn(6, 4, dtype=torch.bfloat16)
    losses = sample_losses(logits, torch.arange(6) % 4, loss, 0.1)
    assert losses.shape == (6,) and losses.dtype == torch.float32
    one = sample_losses(logits[3:4], torch.tensor([3]), loss, 0.1)
    assert torch.equal(losses[3:4], one)


def test_pixels_become_minus_1_to_1() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 4, 5, 3)
    out = normalise(images, torch.float32)
    assert out.shape == (2, 3, 4, 5) and out.dtype == torch.float32
    assert out[0, :, 1, 2].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert normalise(images, torch.bfloat16).dtype == torch.bfloat16
