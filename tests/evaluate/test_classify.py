"""Accuracy and loss over a dataset: the same on any number of ranks, each sample counted once."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from pipeline.config import load_config
from pipeline.data.augment import centre_boxes
from pipeline.data.decode import crop_resize
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.manifest import read_manifest
from pipeline.distributed import World
from pipeline.evaluate.classify import Classification, classify
from pipeline.launch.environment import RankEnvironment
from tests.datasets import make_dataset
from tests.evaluate.classify_rank import model_of
from tests.ranks import run_ranks
from tests.reading import DatasetReader, evaluation_feeds, recipe_of, run_loader

SAMPLES, BROKEN = 33, 20


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's YAML, beside a validation set of which one image is corrupt."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_dataset(folder / "val", SAMPLES, shards=2, size=(48, 40))
    row = ShardIndex(folder / "val/shards/shard-000001.arrow").row(BROKEN - 16)
    with (folder / "val/shards/shard-000001.tar").open("r+b") as tar:
        tar.seek(row.offset)
        tar.write(b"\0" * row.size)
    tree = {
        "run_dir": str(folder / "run"),
        "data": {"train": str(folder / "val"), "val": str(folder / "val")},
        "model": {"name": "vit-ti/16", "image_size": 32, "depth": 2},
        "batch_size": 8,
        "epochs": 1,
        "precision": "fp32",
        "evaluate": {"batch_size": 4},
        "loader": {"workers": 1},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def classify_on(config_path: Path, world: int) -> list[dict]:
    """What each rank of an evaluation on `world` processes comes to."""
    ended = run_ranks("tests.evaluate.classify_rank", (config_path,), world)
    assert ended.codes == [0] * world, ended.stderr
    return [json.loads(said) for said in ended.said]


@torch.no_grad()
def expected(config_path: Path) -> tuple[float, float]:
    """(accuracy, loss) image by image, in plain torch."""
    config = load_config(config_path)
    dataset = config.data.val
    reader = DatasetReader(dataset, read_manifest(dataset))
    model = model_of(config_path, classes=5)
    correct, losses = [], []
    for sample_id in set(range(SAMPLES)) - {BROKEN}:
        sample = reader.read(sample_id)
        size = (sample.width, sample.height)
        pixels = crop_resize(sample.data, size, centre_boxes(np.array([size]), 0.875)[0], 32)
        logits = model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
        label = torch.tensor([sample_id % 5])
        correct.append(float(logits.argmax() == label))
        losses.append(float(F.cross_entropy(logits, label)))
    return float(np.mean(correct)), float(np.mean(losses))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world of one, in this process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")  # joining sets them: put back what was there
    world = World(RankEnvironment(0, 1, 0), str(tmp_path / "alone"))
    yield world
    world.close()


def classify_alone(config_path: Path, world: World, items: int) -> Classification:
    config = load_config(config_path)
    manifest = read_manifest(config.data.val)
    batches = run_loader(recipe_of(config.data.val, evaluation_feeds(SAMPLES, 8, 1)[0], 32, None))
    return classify(model_of(config_path, 5).train(), config, world, manifest, islice(batches, items))


def test_one_rank_and_three_find_what_plain_torch_finds(config_path: Path, alone: World) -> None:
    accuracy, loss = expected(config_path)
    assert 0 < accuracy < 1 and loss > 0.5
    for found in (asdict(classify_alone(config_path, alone, 5)), *classify_on(config_path, world=3)):
        assert found["samples"] == SAMPLES - 1 and found["holes"] == 1
        assert found["accuracy"] == pytest.approx(accuracy)
        assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_an_evaluation_that_misses_samples_fails(config_path: Path, alone: World) -> None:
    with pytest.raises(WorkFailed, match="evaluation saw 32 samples of 33"):
        classify_alone(config_path, alone, 4)
