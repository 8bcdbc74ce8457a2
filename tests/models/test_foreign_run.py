"""A small BiT trained by the same trainer: on two ranks, from one ZeRO stage to another, and out to transformers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, SwinConfig

from pipeline.checkpoint.export import export, read_state
from pipeline.checkpoint.manifest import published, read_checkpoint_manifest
from tests.datasets import make_dataset
from tests.models.foreign import write_bit
from tests.runs import one_line, steps_of, train, vitstream, write_run

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "data"
    make_dataset(path, 64)
    return path


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory) -> Path:
    """Two steps at ZeRO 1, the next two at ZeRO 3, on two ranks each."""
    folder = tmp_path_factory.mktemp("run")
    name = f"hf:{write_bit(folder / 'bit', drop_path_rate=0.1)}"
    made = write_run(
        folder / "run.yaml",
        data,
        data,
        model={"name": name, "image_size": 32, "head_bias": -2.0},
        loss="sigmoid",
        batch_size=16,
        epochs=None,
        steps=STEPS,
        schedule={"name": "constant"},
    )
    train(made, 2, "--set", "steps=2", "--set", "zero=zero1")
    train(made, 2, "--set", "zero=zero3")
    return made


def test_it_goes_on_at_another_stage_as_if_nothing_had_happened(run: Path, data: Path, tmp_path: Path) -> None:
    whole = train_again(run, tmp_path)
    handed, uninterrupted = steps_of(run), steps_of(whole)
    assert handed.keys() == uninterrupted.keys() == set(range(1, STEPS + 1))
    for step, line in uninterrupted.items():
        assert handed[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert handed[step]["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
        assert line["mfu"] is None  # of a CPU nobody knows the peak


def train_again(run: Path, folder: Path) -> Path:
    """The same run without a stop, at ZeRO 2; the folder of its model has been moved."""
    moved = folder / "elsewhere"
    moved.mkdir()
    (moved / "config.json").write_bytes((run.parent / "bit" / "config.json").read_bytes())
    whole = folder / "whole.yaml"
    whole.write_text(run.read_text().replace(str(run.with_suffix("")), str(folder / "whole")))
    train(whole, 2, "--set", "zero=zero2", "--set", f"model.name=hf:{moved}")
    return whole


def test_transformers_opens_what_is_exported(run: Path, tmp_path: Path) -> None:
    newest = published(run.with_suffix("") / "checkpoints")[-1]
    export(run.with_suffix(""), "huggingface", tmp_path / "hub")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "hub")
    manifest = read_checkpoint_manifest(newest)
    ours = read_state(newest, manifest, "model")
    assert ours.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(ours[name], p.detach()) for name, p in model.named_parameters())
    assert list(model.config.id2label.values()) == manifest.classes
    assert model.config.problem_type == "multi_label_classification"
    texts = [(tmp_path / "hub" / name).read_text() for name in ("README.md", "config.json")]
    assert not any(str(run.parent) in text for text in texts), "where it lay is nobody's business"
    one_line(vitstream("train", run, "--set", "run_dir=" + str(tmp_path / "x"), "--set", "model.init=y"), "model: init")


def test_another_config_json_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_bit(tmp_path / "bit", drop_path_rate=0.2)
    more = ("--set", "steps=6", "--set", f"model.name=hf:{other}")
    one_line(vitstream("train", run, *more), "model.name", "drop_path_rate was 0.1", "0.2 now", "another run_dir")
    one_line(vitstream("train", run, "--set", f"model.name=hf:{tmp_path}"), "model.name", "No such file")


def test_plan_says_what_it_knows_and_what_not(run: Path, tmp_path: Path) -> None:
    known = json.loads(vitstream("plan", run, "--json").stdout)
    assert known["states"]["parameters"] > 10_000 and known["saving"]["each"] > 120_000 and known["length"]["flops"]
    SwinConfig(embed_dim=16, depths=[1], num_heads=[2], patch_size=2, window_size=4).save_pretrained(tmp_path / "swin")
    swin = ("--set", f"model.name=hf:{tmp_path / 'swin'}", "--set", "run_dir=x")
    unknown = json.loads(vitstream("plan", run, "--json", *swin).stdout)
    assert unknown["states"] is unknown["gpu"] is unknown["saving"]["each"] is unknown["length"]["flops"] is None
    said = vitstream("plan", run, *swin).stdout
    for words in ("parameters and their memory are not known", "checkpoint takes is not known", "the most that is ass"):
        assert words in said
