"""The recipes that ship: the paper's numbers, each of them a run that can be built, and what the command shows."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import load_config
from pipeline.config_tree import PRESETS, preset_names
from pipeline.dataset.errors import UsageError
from pipeline.models.architecture import foreign_config, parameters, vit_config
from pipeline.models.foreign import build_foreign
from pipeline.models.resnet import ResNet, resnet_of
from pipeline.models.resolution import sizes
from pipeline.models.shapes import parameter_shapes
from pipeline.models.vit import ViT
from pipeline.optim.groups import group, shapes_of
from pipeline.optim.schedule import learning_rate
from pipeline.recipes import recipe
from tests.datasets import make_dataset
from tests.runs import CHECKOUT, one_line, train, vitstream, write_run

fast = pytest.mark.fast
TORCH_BLOCKED = "import sys; sys.modules['torch'] = None; from pipeline.cli import main; main()"

# arXiv 2010.11929, table 3: model, epochs, base LR, LR decay, weight decay, dropout. All: batch 4096, 10k warm-up.
TABLE_3 = """
    vit-b16-jft300m       vit-b/16   7    8e-4   linear   0.1    0.0
    vit-b32-jft300m       vit-b/32   7    8e-4   linear   0.1    0.0
    vit-l32-jft300m       vit-l/32   7    6e-4   linear   0.1    0.0
    vit-l16-jft300m-7ep   vit-l/16   7    4e-4   linear   0.1    0.0
    vit-l16-jft300m       vit-l/16   14   4e-4   linear   0.1    0.0
    vit-h14-jft300m       vit-h/14   14   3e-4   linear   0.1    0.0
    bit-r50x1-jft300m     hf:bit-r50x1    7    1e-3   linear   0.1    0.0
    bit-r50x2-jft300m     hf:bit-r50x2    7    1e-3   linear   0.1    0.0
    bit-r101x1-jft300m    hf:bit-r101x1   7    8e-4   linear   0.1    0.0
    bit-r152x1-jft300m    hf:bit-r152x1   7    6e-4   linear   0.1    0.0
    bit-r152x2-jft300m    hf:bit-r152x2   7    6e-4   linear   0.1    0.0
    vit-r50-b16-jft300m       r50+vit-b/16   7    8e-4   linear   0.1    0.0
    vit-r50-b32-jft300m       r50+vit-b/32   7    8e-4   linear   0.1    0.0
    vit-r50-l32-jft300m       r50+vit-l/32   7    2e-4   linear   0.1    0.0
    vit-r50-l16-jft300m-7ep   r50+vit-l/16   7    4e-4   linear   0.1    0.0
    vit-r50-l16-jft300m       r50+vit-l/16   14   4e-4   linear   0.1    0.0
    vit-b16-i21k          vit-b/16   90   1e-3   linear   0.03   0.1
    vit-b32-i21k          vit-b/32   90   1e-3   linear   0.03   0.1
    vit-l16-i21k-30ep     vit-l/16   30   1e-3   linear   0.03   0.1
    vit-l32-i21k-30ep     vit-l/32   30   1e-3   linear   0.03   0.1
    vit-l16-i21k          vit-l/16   90   1e-3   linear   0.03   0.1
    vit-l32-i21k          vit-l/32   90   1e-3   linear   0.03   0.1
    vit-b16-i1k           vit-b/16   300  3e-3   cosine   0.3    0.1
    vit-b32-i1k           vit-b/32   300  3e-3   cosine   0.3    0.1
    vit-l16-i1k           vit-l/16   300  3e-3   cosine   0.3    0.1
    vit-l32-i1k           vit-l/32   300  3e-3   cosine   0.3    0.1
"""
# Table 4: steps, base LR sweep. All: SGD with momentum 0.9, batch 512, cosine, no weight decay, norm 1, 384 pixels.
TABLE_4 = """
    vit-finetune-imagenet     20000  0.003 0.01 0.03 0.06
    vit-finetune-cifar100     10000  0.001 0.003 0.01 0.03
    vit-finetune-cifar10      10000  0.001 0.003 0.01 0.03
    vit-finetune-pets         500    0.001 0.003 0.01 0.03
    vit-finetune-flowers102   500    0.001 0.003 0.01 0.03
    vit-finetune-vtab         2500   0.01
"""
# big_vision's configs/vit_i21k.py, vit_i1k.py: augmentation; then what it means: m of its RandAugment(2, m), Mixup.
AUGREG = """
    augreg-ti16-i21k   none      -    0.0
    augreg-s32-i21k    none      -    0.0
    augreg-s16-i21k    light1    0    0.0
    augreg-b32-i21k    light2    10   0.2
    augreg-b16-i21k    light2    10   0.2
    augreg-l16-i21k    medium2   15   0.5
    augreg-ti16-i1k    light1    0    0.0
    augreg-s32-i1k     light2    10   0.2
    augreg-s16-i1k     medium2   15   0.5
    augreg-b32-i1k     medium2   15   0.5
    augreg-b16-i1k     medium2   15   0.5
    augreg-l16-i1k     medium2   15   0.5
"""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


@fast
@pytest.mark.parametrize("row", rows(TABLE_3), ids=lambda row: row[0])
def test_table_3(row: list[str]) -> None:
    name, model, epochs, lr, decay, weight_decay, dropout = row
    config = recipe(name).config
    assert config.model.name == model and config.model.image_size == 224
    assert (config.epochs, config.batch_size, config.schedule.warmup_steps) == (int(epochs), 4096, 10_000)
    assert (config.optimizer.lr, config.schedule.name) == (float(lr), decay)
    assert (config.optimizer.weight_decay, config.regularization.dropout) == (float(weight_decay), float(dropout))
    assert (config.optimizer.name, config.optimizer.betas) == ("adamw", (0.9, 0.999))
    assert config.regularization.clip_norm == (1.0 if name.endswith("i1k") else None)  # "only on ImageNet"
    assert (config.regularization.drop_path, config.label_smoothing, config.optimizer.groups) == (0.0, 0.0, ())
    of_ours = config.model.foreign is None
    assert config.model.representation_size == (config.model.variant.width if of_ours else None)
    assert config.model.pooling == "cls" and (of_ours or config.model.head_bias == -10.0)


@fast
@pytest.mark.parametrize("row", rows(TABLE_4), ids=lambda row: row[0])
def test_table_4(row: list[str]) -> None:
    name, steps, *sweep = row
    found = recipe(name)
    config, tried = found.config, tuple(map(float, sweep))
    assert found.preset.verb == "finetune" and found.preset.sweep == {"optimizer.lr": tried}
    assert config.optimizer.lr in tried
    assert (config.steps, config.epochs, config.batch_size, config.model.image_size) == (int(steps), None, 512, 384)
    assert (config.optimizer.name, config.optimizer.momentum, config.optimizer.weight_decay) == ("sgd", 0.9, 0.0)
    assert (config.schedule.name, config.schedule.end_lr, config.regularization.clip_norm) == ("cosine", 0.0, 1.0)
    assert config.model.representation_size is None, "the head is one layer, which starts at zero"


@fast
@pytest.mark.parametrize("row", rows(AUGREG), ids=lambda row: row[0])
def test_augreg(row: list[str]) -> None:
    name, ladder, m, mixup = row
    found = recipe(name)
    config, drawn = found.config, found.config.augment.randaugment
    assert f"({ladder})" in found.preset.title and config.augment.mixup == float(mixup)
    assert (None if drawn is None else (drawn.operations, drawn.n, f"{drawn.m:g}")) == (
        None if m == "-" else ("big_vision", 2, m)
    )
    assert (config.epochs, config.batch_size, config.schedule.warmup_steps) == (300, 4096, 10_000)
    assert (config.optimizer.lr, config.schedule.name, config.regularization.clip_norm) == (1e-3, "cosine", 1.0)
    of_i1k = name.endswith("i1k")
    width = config.model.variant.width if of_i1k else None
    assert (config.model.pooling, config.model.representation_size) == ("cls" if of_i1k else "gap", width)
    assert (config.loss, config.model.head_bias) == (("softmax", 0.0) if of_i1k else ("sigmoid", -10.0))
    assert not any("RandAugment" in each for each in found.preset.differs)


@fast
@pytest.mark.parametrize(("layers", "factor"), [(50, 1), (50, 2), (101, 1), (152, 1), (152, 2)])
def test_the_papers_resnets_ship_as_configs(layers: int, factor: int) -> None:
    found = recipe(f"bit-r{layers}x{factor}-jft300m").config.model
    resnet = resnet_of(foreign_config(found))
    assert replace(resnet, same_padding=False, padded_pooling=False) == ResNet.of_paper(layers, factor)
    assert (resnet.same_padding, resnet.padded_pooling) == (True, True), "as in TensorFlow, where BiT is from"


@fast
def test_jft_takes_as_many_steps_as_the_paper_says() -> None:
    found = recipe("vit-h14-jft300m")
    assert (found.preset.dataset_samples, found.preset.dataset_classes) == (303_000_000, 18_291)
    assert 14 * found.preset.dataset_samples / found.config.batch_size == pytest.approx(1.036e6, rel=1e-3)


@fast
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_run(name: str, tmp_path: Path) -> None:
    found = recipe(name)
    path = tmp_path / "run.yaml"
    path.write_text(f"extends: {name}\nrun_dir: r\ndata: {{train: d}}\n")
    config = load_config(path)
    assert config.preset == found.preset and config.model == found.config.model
    assert all((found.preset.title, found.preset.source, found.preset.command, found.preset.expected))
    classes = found.preset.dataset_classes
    with torch.device("meta"):
        ours = config.model.foreign is None
        model = (ViT(vit_config(config, classes)) if ours else build_foreign(config.model, classes, seed=0)).eval()
        for size in sizes(config):
            assert model(torch.zeros(2, 3, size, size)).shape == (2, classes)
    shapes = shapes_of(model)
    assert parameter_shapes(config, classes) == (shapes if ours else None)
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters(config, classes)
    assert len(group(shapes, config.optimizer)) >= 2
    steps = -(-config.total_samples(found.preset.dataset_samples) // config.batch_size)
    warmup = config.schedule.warmup_steps
    assert 0 < warmup < steps
    rates = [learning_rate(config.schedule, config.optimizer.lr, step, steps) for step in (1, warmup, steps)]
    assert rates[1:] == pytest.approx([config.optimizer.lr, config.schedule.end_lr], abs=1e-12)
    assert max(rates[0], rates[2]) < rates[1]


@fast
def test_what_later_recipes_add() -> None:
    g14 = recipe("vit-g14-jft3b").config
    decays = {n: each.weight_decay for each in group(parameter_shapes(g14, 29_593), g14.optimizer) for n in each.names}
    assert decays["head.weight"] == pytest.approx(3.0) and decays["blocks.0.mlp.up.weight"] == 0.03
    assert decays["head.bias"] == decays["pool.probe"] == decays["pos_embed"] == 0.0
    assert parameters(recipe("vit-gg14-jft3b").config, 1000) == pytest.approx(1.84e9, rel=0.03)
    mae = recipe("mae-h14-i1k").config
    rates = {n: each.lr_scale for each in group(parameter_shapes(mae, 1000), mae.optimizer) for n in each.names}
    assert rates["head.weight"] == 1.0 and rates["blocks.31.norm1.bias"] == 0.75
    assert rates["pos_embed"] == pytest.approx(0.75**33)
    for name in ("deit3-h14-i1k", "deit3-h14-i21k", "deit3-h14-i21k-i1k"):
        assert any("LAMB" in each for each in recipe(name).preset.differs)
    at_160, at_224 = recipe("deit3-h14-i1k").config, recipe("deit3-h14-i1k-224").config
    assert (at_160.model.image_size // 14, 160 // 14) == (11, 11) and at_224.model.image_size == 224
    assert (at_160.loss, at_224.loss, at_224.optimizer.lr, at_224.label_smoothing) == ("bce", "softmax", 1e-5, 0.1)


@fast
def test_warm_ups_that_are_given_in_epochs() -> None:
    for name in ("deit3-h14-i1k", "deit3-h14-i1k-224", "deit3-h14-i21k", "deit3-h14-i21k-i1k", "mae-h14-i1k"):
        found = recipe(name)
        expected = 5 * found.preset.dataset_samples / found.config.batch_size
        assert found.config.schedule.warmup_steps == pytest.approx(expected, abs=1), name


@fast
def test_a_name_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"presets: vit-h is none; did you mean .*all of them: vitstream presets"):
        recipe("vit-h")


def without_torch(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", TORCH_BLOCKED, *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


def test_the_command_lists_them_and_shows_one_without_torch() -> None:
    listed = without_torch("presets")
    assert listed.returncode == 0 and not listed.stderr
    assert (
        [line.split()[0] for line in listed.stdout.splitlines()]
        == preset_names()
        == sorted(p.stem for p in PRESETS.iterdir())
    )
    shown = without_torch("presets", "vit-l16-i21k").stdout
    assert "ImageNet 85.15 %" in shown and "arXiv 2010.11929, table 3" in shown and "weight_decay: 0.03" in shown
    body = json.loads(without_torch("presets", "vit-finetune-pets", "--json").stdout)
    assert (body["verb"], body["sweep"]["optimizer.lr"][0], body["config"]["steps"]) == ("finetune", 0.001, 500)
    every = json.loads(without_torch("presets", "--json").stdout)["presets"]
    assert [each["name"] for each in every] == preset_names()
    one_line(without_torch("presets", "vit-l"), "vit-l is none", "did you mean", "vit-l16-i1k")


def test_a_plan_of_data_that_is_not_here_and_nothing_else(tmp_path: Path) -> None:
    planned = without_torch("plan", "vit-h14-jft300m", "--nodes", 16, "--gpus-per-node", 8, "--gpu", "h200")
    assert planned.returncode == 0, planned.stderr
    assert "preset   data/jft-300m is not here: planned for 303,000,000 images in 18,291 classes" in planned.stdout
    assert "1,035,645 steps of 4,096" in planned.stdout and "4,259 exaFLOP in all" in planned.stdout
    assert "of an H200's 141.0 GB" in planned.stdout
    path = tmp_path / "run.yaml"
    path.write_text(f"extends: vit-b16-i1k\nrun_dir: {tmp_path / 'run'}\ndata: {{train: {tmp_path / 'data'}}}\n")
    body = json.loads(without_torch("plan", path, "--json").stdout)
    assert body["length"]["samples"] == 300 * 1_281_167 and str(tmp_path / "data") in body["assumed"]
    one_line(vitstream("train", path), "data.train", "no such dataset")
    one_line(vitstream("submit", path, "--dry-run"), "data.train", "no such dataset")
    one_line(vitstream("plan", write_run(path, tmp_path / "data")), "data.train", "no such dataset")
    one_line(vitstream("plan", "vit-h"), "vit-h", "No such file")


def test_a_plan_of_data_that_is_here_is_of_that(tmp_path: Path) -> None:
    """And what was told of a preset may be told otherwise when the run goes on."""
    make_dataset(tmp_path / "data", 40)
    small = {"model": {"name": "vit-ti/16", "image_size": 32, "depth": 1, "representation_size": None}}
    run = write_run(tmp_path / "run.yaml", tmp_path / "data", batch_size=8, epochs=1, extends="plain-s16-i1k", **small)
    body = json.loads(vitstream("plan", run, "--json").stdout)
    assert body["assumed"] is None and body["length"]["samples"] == 40
    train(run)
    said = train(run, 1, "--set", "epochs=2", "--set", "preset.expected=more").stdout
    assert "changed since that checkpoint: epochs" in said and "preset" not in said
