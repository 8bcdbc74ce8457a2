"""Which size a step's images have, what is refused, and a model at another size than its own."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.config import Config, load_config
from pipeline.dataset.errors import UsageError
from pipeline.models.architecture import train_flops
from pipeline.models.mfu import Utilisation
from pipeline.models.posemb import sincos2d
from pipeline.models.resolution import Phase, image_size, phases, sizes, steps_left, told
from pipeline.models.variants import ViTConfig, variant
from pipeline.models.vit import ViT

pytestmark = pytest.mark.fast
H14 = {"name": "vit-h/14", "image_size": 224}


def config_with(resolution: list[dict], model: dict = H14, **changes: object) -> Config:
    tree = {"run_dir": "r", "data": {"train": "d"}, "batch_size": 8, "steps": 10, "model": model}
    return Config.model_validate(tree | {"resolution": resolution} | changes)


TWO = [{"image_size": 112, "until": 0.5}, {"image_size": 168, "until": 0.9}]


def test_steps_end_at_exact_boundaries() -> None:
    config = config_with(TWO)
    assert [image_size(config, step, 10) for step in range(1, 11)] == [112] * 5 + [168] * 4 + [224]
    assert phases(config, 1_035_645) == (Phase(112, 517_823), Phase(168, 414_258), Phase(224, 103_564))
    assert phases(config, 10, done=4) == (Phase(112, 1), Phase(168, 4), Phase(224, 1))
    assert phases(config, 10, done=5) == (Phase(168, 4), Phase(224, 1))
    assert phases(config, 1) == (Phase(112, 1),), "half a step is a step"
    assert phases(config, 10, done=10) == ()
    assert phases(config_with([]), 10) == (Phase(224, 10),)
    assert told(phases(config, 10, done=4), 4) == "112 px to step 5, then 168 px to step 9, then 224 px"
    assert sizes(config) == {112, 168, 224}


@given(st.lists(st.floats(0.001, 0.999), max_size=4, unique=True), st.integers(1, 10_000), st.data())
def test_phases_are_the_steps_whatever_was_done(untils: list[float], total: int, data: st.DataObject) -> None:
    schedule = [{"image_size": 14 * (n + 1), "until": until} for n, until in enumerate(sorted(untils))]
    config, done = config_with(schedule), data.draw(st.integers(max(0, total - 300), total))
    by_step = [image_size(config, step, total) for step in range(done + 1, total + 1)]
    assert [phase.image_size for phase in phases(config, total, done) for _ in range(phase.steps)] == by_step


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "resolution=[{image_size: 160, until: 0.9}]",
            "resolution.0: image_size 160 is not a multiple of the patch, 14",
        ),
        (
            "resolution=[{image_size: 112, until: 0.5}, {image_size: 168, until: 0.5}]",
            "resolution.1.until: 0.5 does not",
        ),
        ("resolution=[{image_size: 112, until: 1}]", "resolution.0.until: Input should be less than 1"),
        (
            "model.name=r50+vit-b/32",
            "resolution.0: image_size 112 is not a multiple of the ResNet's stride, 32: take 96 or 128",
        ),
        ("loader.name=mosaic", "resolution: loader.name: mosaic has images of one size"),
        ("model.name=hf:models/bit", "resolution: is of our own ViT; hf:models/bit is trained at one size"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(config_with(TWO).to_yaml())
    with pytest.raises(UsageError) as refused:
        load_config(path, [change, *(["model.pooling=cls"] if "hf:" in change else [])])
    assert words in str(refused.value) and "\n" not in str(refused.value)


def tiny(size: int, **parts: object) -> ViT:
    made = ViT(ViTConfig(variant("vit-ti/4", width=16, depth=1, mlp_dim=16, heads=2), size, classes=3, **parts))
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3, generator=random)
    return made


@pytest.mark.parametrize("pooling", ["cls", "gap"])
@pytest.mark.parametrize("size", [12, 28, 4])
def test_learned_positions_are_resized_and_learn_through_that(pooling: str, size: int) -> None:
    model, before = tiny(20, pooling=pooling), int(pooling == "cls")
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    there = tiny(size, pooling=pooling)
    weights = dict(model.named_parameters())
    grid = weights["pos_embed"][:, before:].unflatten(1, (5, 5)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (size // 4, size // 4), mode="bilinear", align_corners=True).flatten(2).mT
    positions = torch.cat([weights["pos_embed"][:, :before], grid], dim=1)
    expected = torch.func.functional_call(there, weights | {"pos_embed": positions}, images)
    assert torch.allclose(model(images), expected, atol=1e-5)
    (theirs,) = torch.autograd.grad(expected.square().sum(), weights["pos_embed"])
    (ours,) = torch.autograd.grad(model(images).square().sum(), weights["pos_embed"])
    assert torch.allclose(ours, theirs, atol=1e-4) and theirs.any()


def test_fixed_positions_are_those_of_the_other_grid_and_none_stay_none() -> None:
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    for kind in ("sincos2d", "none"):
        model, there = tiny(20, pos_embed=kind), tiny(12, pos_embed=kind)
        there.load_state_dict(model.state_dict())
        assert torch.equal(model(images), there(images))
    fixed = tiny(20, pos_embed="sincos2d")._positions(1 + 9)
    assert torch.equal(fixed[0, 1:], sincos2d(3, 16)) and not fixed[0, 0].any()


def test_patch_dropout_keeps_its_share_of_whatever_patches_there_are() -> None:
    model, seen = tiny(20, patch_dropout=0.5).train(), []
    model.blocks[0].register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1]))
    for size in (20, 12):
        model(torch.zeros(1, 3, size, size))
    assert seen == [1 + 12, 1 + 4]


def test_a_step_is_measured_by_the_operations_of_its_own_size() -> None:
    config = config_with(TWO)
    mfu = Utilisation(config, 1000, 10, peak=8 * 989e12)
    for step, size in ((1, 112), (9, 168), (10, 224)):
        flops = train_flops(config_with([], H14 | {"image_size": size}), 1000)
        assert mfu.of(step, 1000.0) == round(1000.0 * flops / (8 * 989e12), 4)
    assert Utilisation(config, 1000, 10, peak=None).of(1, 1000.0) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 9.0)), min_size=1, max_size=4), st.integers(0, 40))
def test_what_is_left_is_the_cost_of_each_step_to_come_over_the_last_ones(costs: list, done: int) -> None:
    each = [cost for steps, cost in costs for _ in range(steps)]
    last = each[max(0, min(done, len(each)) - 1)]
    assert steps_left(costs, done) == pytest.approx(sum(each[done:]) / last)


def test_what_is_left_counts_each_size_by_its_cost() -> None:
    cost = {size: train_flops(config_with([], H14 | {"image_size": size}), 1000) for size in (112, 168, 224)}
    run = Utilisation(config_with(TWO), 1000, 10, peak=None)
    assert run.steps_left(3) == pytest.approx(2 + 4 * cost[168] / cost[112] + cost[224] / cost[112])
    assert run.steps_left(5) == pytest.approx(4 * cost[168] / cost[112] + cost[224] / cost[112])
    assert run.steps_left(9) == pytest.approx(cost[224] / cost[168]) and run.steps_left(10) == 0
    assert Utilisation(config_with([]), 1000, 10, peak=None).steps_left(4) == 6
