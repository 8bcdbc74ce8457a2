"""Mixup and CutMix: who is mixed with whom and how much, whatever the topology; pixels and losses on the device."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.config import Augment
from pipeline.data.batch import Mix
from pipeline.data.feed import NONE, TrainFeed
from pipeline.data.keyed import keyed, uniform
from pipeline.data.mix import NOBODY, MixPlan, mix_plan, symmetric_beta, without_holes
from pipeline.data.mixing import mix_images, mixed_losses
from pipeline.data.order import Order
from pipeline.loss import normalise
from tests.datasets import photo_entry, write_dataset
from tests.reading import recipe_of, run_loader

pytestmark = pytest.mark.fast
BOTH = Augment(mixup=0.8, cutmix=1.0)


def plan_of(augment: Augment, slots: np.ndarray, count: int, consumed: int = 1_000, size: int = 32) -> MixPlan:
    return mix_plan(augment, 5, consumed + slots, slots, count, size)


def on_device(plan: MixPlan, partner: np.ndarray) -> Mix:
    return Mix(torch.from_numpy(partner), torch.from_numpy(plan.lam), torch.from_numpy(plan.box))


# -- lambda ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.2, 0.5, 0.8, 1.0, 2.0, 30.0, 1e4])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    """By the Kolmogorov-Smirnov distance to numpy's own; 1.95 sqrt(2 / n) is passed by chance once in a thousand."""
    n = 100_000
    draws = uniform(keyed(3, np.arange(n)), 2)
    ours = np.sort(symmetric_beta(draws[:, 0], draws[:, 1], np.full(n, alpha)))
    numpys = np.sort(np.random.default_rng(0).beta(alpha, alpha, n))
    ticks = np.concatenate([ours, numpys])
    distance = np.abs(np.searchsorted(ours, ticks, "right") - np.searchsorted(numpys, ticks, "right")).max() / n
    assert distance < 1.95 * np.sqrt(2 / n)
    assert 0 <= ours[0] <= ours[-1] <= 1
    assert ours.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.02)


@settings(max_examples=100)
@given(
    u=st.floats(0, 1, exclude_max=True),
    v=st.floats(0, 1, exclude_max=True),
    alpha=st.floats(1e-300, 1e300, allow_subnormal=False),
)
def test_lambda_is_a_share_whatever_alpha(u: float, v: float, alpha: float) -> None:
    with np.errstate(over="ignore"):
        assert 0 <= symmetric_beta(np.array([u]), np.array([v]), np.array([alpha]))[0] <= 1


# -- the plan ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 70), consumed=st.integers(0, 2**40), data=st.data())
def test_the_plan_is_the_same_for_any_split_of_the_batch(count: int, consumed: int, data: st.DataObject) -> None:
    slots = np.arange(count)
    whole = plan_of(BOTH, slots, count, consumed)
    padding = np.full(3, -1)
    some = np.array(data.draw(st.permutations(range(count))))[: data.draw(st.integers(0, count))]
    part = plan_of(BOTH, np.concatenate([some, padding]).astype(np.int64), count, consumed)
    for ours, theirs, none in ((part.lam, whole.lam, 1), (part.box, whole.box, 0), (part.partner_slot, None, NOBODY)):
        assert np.array_equal(ours[:-3], (whole.partner_slot if theirs is None else theirs)[some])
        assert (ours[-3:] == none).all()
    assert part.lam.dtype == np.float32 and part.box.dtype == part.partner_slot.dtype == np.int64


@pytest.mark.parametrize("count", [1, 2, 63, 64])
def test_partners_are_each_others_and_share_lambda_and_box(count: int) -> None:
    plan = plan_of(BOTH, np.arange(count), count)
    has = plan.partner_slot != NOBODY
    partner = plan.partner_slot[has]
    assert np.array_equal(plan.partner_slot[partner], np.flatnonzero(has)) and (partner != np.flatnonzero(has)).all()
    assert np.array_equal(plan.lam[partner], plan.lam[has]) and np.array_equal(plan.box[partner], plan.box[has])
    assert np.flatnonzero(~has).tolist() == ([count - 1] if count % 2 else [])  # the last of an odd number is alone
    assert (plan.lam[~has] == 1).all() and (plan.box[~has] == 0).all()


def test_mixup_alone_cutmix_alone_both_and_neither() -> None:
    n, size = 20_000, 32
    slots = np.arange(n)
    boxed = {}
    for name, augment in (
        ("mixup", Augment(mixup=0.8)),
        ("cutmix", Augment(cutmix=1.0)),
        ("both", BOTH),
        ("neither", Augment()),
    ):
        plan = plan_of(augment, slots, n)
        left, top, width, height = plan.box.T
        assert (left >= 0).all() and (top >= 0).all() and (left + width <= size).all() and (top + height <= size).all()
        boxed[name] = (width * height > 0).mean()
        cut = width * height > 0
        assert np.array_equal(plan.lam[cut], (1 - (width * height)[cut] / size**2).astype(np.float32))
    assert boxed["mixup"] == 0 and (plan.lam == 1).all() and (plan.partner_slot == NOBODY).all()  # of neither
    assert boxed["cutmix"] > 0.95 and abs(boxed["both"] - boxed["cutmix"] / 2) < 0.02
    drawn = plan_of(Augment(mixup=0.8), slots, n).lam[::2]
    assert drawn.var() == pytest.approx(1 / (4 * 2.6), rel=0.05)


def test_boxes_lie_anywhere_and_have_the_share_that_was_drawn() -> None:
    n, size = 100_000, 224
    left, top, width, height = plan_of(Augment(cutmix=1.0), np.arange(n), n, size=size).box[::2].T
    uncut = (left > 0) & (top > 0) & (left + width < size) & (top + height < size) & (width > 0)
    assert (width[uncut] == height[uncut]).all() and (width[uncut] % 2 == 0).all()
    centre = (left + width / 2)[uncut & (width < 20)]
    assert np.abs(np.histogram(centre, bins=8, range=(10, size - 10))[0] / len(centre) - 1 / 8).max() < 0.04
    assert width.max() > 0.9 * size and abs((width > height).mean() - (width < height).mean()) < 0.02


@pytest.mark.parametrize("what", ["seed", "step"])
def test_the_plan_changes_with_seed_and_step(what: str) -> None:
    slots = np.arange(200)
    before = mix_plan(BOTH, 5, 1_000 + slots, slots, 200, 32)
    after = mix_plan(BOTH, 5 + (what == "seed"), 1_000 + 200 * (what == "step") + slots, slots, 200, 32)
    assert (before.lam == after.lam).sum() < 6


def test_nothing_is_mixed_with_a_hole() -> None:
    lam = np.array([0.3, 0.3, 0.6, 1.0], np.float32)
    box = np.tile([1, 2, 3, 4], (4, 1))
    partner = np.array([1, 0, 4, 3])  # 4 is a guest
    same = without_holes(lam, box, partner, np.array([True] * 5))
    assert all(np.array_equal(a, b) for a, b in zip(same, (lam, box, partner), strict=True))
    for hole, spoilt in ((0, [0, 1]), (1, [0, 1]), (2, [2]), (4, [2])):
        readable = np.arange(5) != hole
        new_lam, new_box, new_partner = without_holes(lam, box, partner, readable)
        kept = np.setdiff1d(np.arange(4), spoilt)
        assert (new_lam[spoilt] == 1).all() and (new_box[spoilt] == 0).all() and new_partner[spoilt].tolist() == spoilt
        assert np.array_equal(new_lam[kept], lam[kept]) and np.array_equal(new_partner[kept], partner[kept])
        assert new_lam.dtype == np.float32


# -- on the device -----------------------------------------------------------------------------------------------


def micro_batch(size: int = 24) -> tuple[MixPlan, np.ndarray, np.ndarray, np.ndarray]:
    """(plan, partner rows, images uint8, labels) of slots 5 to 18 of 19: 18 is alone, and 5's partner, 4, a guest."""
    slots = np.arange(5, 19)
    plan = mix_plan(BOTH, 1, 640 + slots, slots, 19, size)
    rows = {int(slot): row for row, slot in enumerate([*slots, 4])}
    partner = np.array(
        [rows[slot if other == NOBODY else other] for slot, other in zip(slots, plan.partner_slot, strict=True)]
    )
    rng = np.random.default_rng(2)
    return plan, partner, rng.integers(0, 256, (15, size, size, 3), dtype=np.uint8), rng.integers(0, 7, 15)


def mixed_plainly(plan: MixPlan, partner: np.ndarray, images: np.ndarray) -> np.ndarray:
    mixed = []
    for row, (lam, (left, top, width, height)) in enumerate(zip(plan.lam, plan.box, strict=True)):
        own, other = images[row].astype(np.float32), images[partner[row]].astype(np.float32)
        if width * height:
            own[top : top + height, left : left + width] = other[top : top + height, left : left + width]
        else:
            own = lam * own + (np.float32(1) - lam) * other
        mixed.append(own)
    return np.stack(mixed)


def test_images_are_mixed_as_plain_numpy_does() -> None:
    plan, partner, images, _ = micro_batch()
    assert (plan.box[:, 2] > 0).any() and (plan.box[:, 2] == 0).any()
    mixed = mix_images(torch.from_numpy(images), on_device(plan, partner))
    assert mixed.dtype == torch.float32 and mixed.shape == (14, 24, 24, 3)
    assert np.allclose(mixed.numpy(), mixed_plainly(plan, partner, images), rtol=0, atol=1e-4)
    alone = plan.partner_slot == NOBODY
    assert alone.sum() == 1 and np.array_equal(mixed.numpy()[alone], images[:14][alone])
    boxed = plan.box[:, 2] > 0
    assert np.array_equal(mixed.numpy()[boxed], mixed_plainly(plan, partner, images)[boxed])


def test_mixing_and_normalising_commute() -> None:
    plan, partner, images, _ = micro_batch()
    mix = on_device(plan, partner)
    before = normalise(mix_images(torch.from_numpy(images), mix), torch.float32)
    after = mix_images(torch.from_numpy(images).float().div(127.5).sub(1.0), mix).permute(0, 3, 1, 2)
    assert torch.allclose(before, after, atol=1e-6) and -1 <= before.min() <= before.max() <= 1


def soft_targets(plan: MixPlan, partner: np.ndarray, labels: np.ndarray, smoothing: float) -> torch.Tensor:
    one_hot = F.one_hot(torch.from_numpy(labels), 7).double()
    lam = torch.from_numpy(plan.lam).double()[:, None]
    target = lam * one_hot[: len(lam)] + (1 - lam) * one_hot[torch.from_numpy(partner)]
    return target * (1 - smoothing) + smoothing / 7


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_and_gradients_are_those_of_soft_targets(loss: str, smoothing: float) -> None:
    plan, partner, _, labels = micro_batch()
    logits = torch.randn(14, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = soft_targets(plan, partner, labels, smoothing)
    if loss == "softmax":
        expected = F.cross_entropy(logits.double(), target, reduction="none")
    else:
        expected = F.binary_cross_entropy_with_logits(logits.double(), target, reduction="none").sum(dim=1)
    ours = mixed_losses(logits, torch.from_numpy(labels), on_device(plan, partner), loss, smoothing)
    assert ours.shape == (14,) and ours.dtype == torch.float32
    assert torch.allclose(ours.double(), expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)


def test_what_is_not_mixed_loses_exactly_what_it_did() -> None:
    _, partner, _, labels = micro_batch()
    plan = plan_of(Augment(), np.arange(14), 14)
    logits, labels = torch.randn(14, 7), torch.from_numpy(labels)
    ours = mixed_losses(logits, labels, on_device(plan, partner), "softmax", 0.0)
    assert torch.equal(ours, F.cross_entropy(logits, labels[:14], reduction="none"))


# -- through the loader ------------------------------------------------------------------------------------------

SAMPLES, CLASSES, HOLE = 70, 5, 11


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one sample that is no image."""
    path = tmp_path_factory.mktemp("data") / "train"
    entries = [photo_entry(n, n % CLASSES, (40, 30), seed=1) for n in range(SAMPLES)]
    entries[HOLE] = replace(entries[HOLE], data=b"no image")
    write_dataset(path, [entries[:30], entries[30:]], tuple("abcde"))
    return path


def seen_by_the_model(
    dataset: Path, batch_size: int, world: int, limit: int
) -> tuple[dict[tuple[int, int], bytes], int]:
    """((step, slot) -> mixed pixels and both labels with their shares; how many guests there were)."""
    everything = Augment(randaugment={}, color_jitter={"hue": 0.1}, random_erasing=0.5, mixup=0.8, cutmix=1.0)
    seen, guests = {}, 0
    for rank in range(world):
        feed = TrainFeed(Order.fit(SAMPLES, batch_size, 5), batch_size, world, rank, limit, 0, 2 * SAMPLES, mixes=True)
        for item, batch in enumerate(run_loader(recipe_of(dataset, feed, 16, everything))):
            assert batch.mix is not None
            step, micro = divmod(item, feed.accumulation)
            images, partner, lam = mix_images(batch.images, batch.mix), batch.mix.partner, batch.mix.lam
            guests += int((partner >= feed.batch).sum())
            targets = [F.one_hot(labels, CLASSES) for labels in (batch.labels[: feed.batch], batch.labels[partner])]
            target = lam[:, None] * targets[0] + (1 - lam[:, None]) * targets[1]
            for row, position in enumerate(feed.positions(step * feed.accumulation + micro)[: feed.batch]):
                if position != NONE and batch.weights[row]:
                    seen[step, int(feed.slots[micro, row])] = (
                        images[row].numpy().tobytes() + target[row].numpy().tobytes()
                    )
    return seen, guests


@pytest.mark.parametrize("batch_size", [22, 9])
def test_what_the_model_sees_does_not_depend_on_topology(dataset: Path, batch_size: int) -> None:
    reference, guests = seen_by_the_model(dataset, batch_size, world=1, limit=64)
    assert guests == 0 and len(reference) == len(set(reference.values())) == 2 * (SAMPLES - 1)
    for world, limit in ((1, 5), (2, 64), (3, 3)):
        again, guests = seen_by_the_model(dataset, batch_size, world, limit)
        assert guests > 0 and again == reference, (world, limit)
