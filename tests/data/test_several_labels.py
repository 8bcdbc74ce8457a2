"""Datasets of several labels per image, from the tar to the loss."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import Augment
from pipeline.data.corpus import open_corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.order import Order
from pipeline.data.read import Reader
from pipeline.loss import bits
from pipeline.run.metrics import read_lines
from tests.datasets import make_dataset_of_several
from tests.reading import recipe_of, run_loader
from tests.runs import one_line, steps_of, train, vitstream, write_run

SAMPLES, CLASSES = 60, 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "data"
    make_dataset_of_several(path, SAMPLES, CLASSES)
    return path


def test_the_loader_gives_every_label_of_the_tar(data: Path) -> None:
    order = Order.fit(SAMPLES, 12, 0)
    feed = TrainFeed(order, 12, 1, 0, 12, 0, SAMPLES)
    read = Reader(open_corpus(data)).read(range(SAMPLES))
    assert {len(sample.labels) for sample in read.values()} >= {0, 1, 2, 3}
    expected = np.zeros((SAMPLES, CLASSES), np.uint8)
    for number, sample in read.items():
        expected[number, list(sample.labels)] = 1
    found = [bits(batch.labels, CLASSES).clone() for batch in run_loader(recipe_of(data, feed, 32, Augment()))]
    ids = [order.ids(np.arange(first, first + 12)) for first in range(0, SAMPLES, 12)]
    for labels, at in zip(found, ids, strict=True):
        assert torch.equal(labels, torch.from_numpy(expected[at]))


@pytest.mark.parametrize("loss", ["sigmoid", "bce", "softmax"])
def test_a_run_learns_them(data: Path, tmp_path: Path, loss: str) -> None:
    """On two ranks, with mixed images; the head starts at zero, so the first loss is known."""
    same = {"epochs": 2, "batch_size": 12, "loss": loss, "augment": {"mixup": 0.2}, "loader": {"workers": 0}}
    run = write_run(tmp_path / "run.yaml", data, data, **same)
    said = train(run, 2).stdout
    assert "epoch 1: all 60 samples read exactly once" in said
    steps = steps_of(run)
    expected = {"sigmoid": [CLASSES * math.log(2)], "bce": [math.log(2)]}
    expected["softmax"] = [math.log(CLASSES), math.log(CLASSES) * 11 / 12]  # with the image without labels, or without
    assert any(steps[1]["loss"] == pytest.approx(first, rel=1e-5) for first in expected[loss])
    assert loss == "softmax" or steps[10]["loss"] < steps[1]["loss"]
    (line,) = [line for line in read_lines(run.with_suffix("") / "metrics.jsonl") if "eval" in line]
    assert line["samples"] == SAMPLES and 0 < line["accuracy"] <= 1


def test_both_kinds_together_are_refused(data: Path, tmp_path: Path) -> None:
    from tests.datasets import make_dataset

    make_dataset(tmp_path / "single", 12, classes=CLASSES, seed=3)
    run = write_run(tmp_path / "run.yaml", data, data={"train": [str(tmp_path / "single"), str(data)]})
    one_line(vitstream("train", run), "data.train", "has several labels per image and", "one kind")
