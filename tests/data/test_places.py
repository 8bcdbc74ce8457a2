"""`data.train` and `data.val`: a place, a list of places, a weighted list; what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import Config, load_config
from pipeline.data.places import Weighted
from pipeline.dataset.errors import UsageError

pytestmark = pytest.mark.fast
BASE = {"run_dir": "r", "model": {"name": "vit-ti/16"}, "batch_size": 8, "steps": 2}
URL = "s3://bucket/web//train"


def load(folder: Path, train: object, val: object = None) -> Config:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(BASE | {"data": {"train": train, "val": val}}))
    return load_config(path)


def test_a_single_place_is_plain_text_as_it_always_was(tmp_path: Path) -> None:
    config = load(tmp_path, "data//train/", "data/val")
    assert (config.data.train, config.data.val) == (Path("data/train"), Path("data/val"))
    data = config.to_json()["data"]
    assert (data["train"], data["val"]) == ("data/train", "data/val")
    config = load(tmp_path, URL, "http://host/val?signature=1")
    assert (config.data.train, config.data.val) == (URL, "http://host/val?signature=1")
    assert config.to_json()["data"]["train"] == URL


def test_lists_round_trip(tmp_path: Path) -> None:
    weighted = [{"path": "a/", "weight": 7}, {"path": URL, "weight": 0.5}]
    for train, expected in (
        (["a/", URL], (Path("a"), URL)),
        (weighted, (Weighted(path=Path("a"), weight=7.0), Weighted(path=URL, weight=0.5))),
    ):
        config = load(tmp_path, train)
        assert config.data.train == expected
        again = load(tmp_path, yaml.safe_load(config.to_yaml())["data"]["train"])
        assert again == config and again.hash == config.hash
    assert config.to_json()["data"]["train"] == [{"path": "a", "weight": 7.0}, {"path": URL, "weight": 0.5}]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([], "a list of 0; takes 1 to 256 datasets"),
        (["a"] * 257, "a list of 257"),
        (["a", {"path": "b", "weight": 1}], "mixes places and {path, weight}: give each dataset a weight, or none"),
        ([{"path": "b"}], "a dataset of a mixture is {path, weight}; one misses weight"),
        (
            [{"path": "b", "weight": 1, "wieght": 2}],
            "a dataset of a mixture is {path, weight}; one does not take wieght",
        ),
        ([{"path": "b", "weight": 0}], "weight: Input should be greater than 0"),
        ([{"path": "b", "weight": float("inf")}], "weight: Input should be a finite number"),
        ([{"path": 3, "weight": 1}], "path: takes a DATASET folder or a URL, not 3"),
        ([["a"]], "takes a DATASET folder or a URL, not ['a']"),
        ({"path": "b", "weight": 1}, "takes a DATASET folder or a URL, not {'path'"),
        ("", "takes a DATASET folder or a URL, not ''"),
        (None, "takes a DATASET folder or a URL, not None"),
    ],
)
def test_a_wrong_place_is_one_line(tmp_path: Path, train: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, train)
    assert f"run.yaml: data.train: {words}" in str(caught.value) and "\n" not in str(caught.value)
