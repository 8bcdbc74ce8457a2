"""`model.init`: what is taken over is exact, what differs is said, what does not fit is named."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint.export import export
from pipeline.checkpoint.start import start_from
from pipeline.dataset.errors import UsageError
from pipeline.models.posemb import resize_positions
from pipeline.models.vit import ViT
from tests.checkpoint.made import CLASSES, make_checkpoint, scrambled, small_config
from tests.datasets import make_dataset
from tests.models.hybrid import HYBRID
from tests.runs import one_line, steps_of, train, vitstream, write_run

HEADS = 4


@pytest.fixture
def sources(tmp_path):
    """(the model, the same as a checkpoint, as a file and as a Hugging Face folder)."""
    config = small_config(tmp_path / "run")
    model = scrambled(config)
    step = make_checkpoint(config, model, 7)
    export(step, "safetensors", tmp_path / "w.safetensors")
    export(step, "huggingface", tmp_path / "hub")
    return model, {"checkpoint": step, "file": tmp_path / "w.safetensors", "hub": tmp_path / "hub"}


def fresh(tmp_path, classes=len(CLASSES), **model) -> ViT:
    return scrambled(small_config(tmp_path / "other", **model), classes, seed=2)


@pytest.mark.parametrize("kind", ["checkpoint", "file", "hub"])
def test_every_weight_is_taken_over(sources, tmp_path, kind):
    model, places = sources
    mine = fresh(tmp_path)
    notes = start_from(places[kind], mine, HEADS, tuple(CLASSES))
    assert notes == [f"starts from {places[kind]}"]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), mine.state_dict().values(), strict=True))


@pytest.mark.parametrize("classes", [["cow", "dog"], ["ant", "bee", "cat", "dog", "yak"]])
@pytest.mark.parametrize("kind", ["checkpoint", "hub"])
def test_other_classes_get_a_fresh_head(sources, tmp_path, kind, classes):
    model, places = sources
    mine = fresh(tmp_path, classes=len(classes))
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    notes = start_from(places[kind], mine, HEADS, tuple(classes))
    assert len(notes) == 2 and "the head starts fresh" in notes[1]
    for name, tensor in mine.state_dict().items():
        expected = before if name.startswith("head.") else model.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_another_resolution_resizes_the_positions(sources, tmp_path):
    model, places = sources
    mine = fresh(tmp_path, image_size=48)
    notes = start_from(places["hub"], mine, HEADS, tuple(CLASSES))
    assert "16 position embeddings resized to 36" in notes[1]
    assert torch.equal(mine.pos_embed, resize_positions(model.pos_embed, 37, prefix=1))


def test_positions_are_resized_as_the_authors_do():
    ndimage = pytest.importorskip("scipy.ndimage")  # with which they do it
    positions = torch.randn(1, 1 + 25, 3, generator=torch.Generator().manual_seed(0))
    resized = resize_positions(positions, 1 + 64, prefix=1)
    grid = positions[0, 1:].reshape(5, 5, 3).numpy()
    theirs = ndimage.zoom(grid, (8 / 5, 8 / 5, 1), order=1)
    assert torch.equal(resized[:, :1], positions[:, :1])
    np.testing.assert_allclose(resized[0, 1:].reshape(8, 8, 3).numpy(), theirs, atol=1e-5)
    assert torch.allclose(resize_positions(positions, 26, prefix=1), positions)
    with pytest.raises(ValueError, match="square"):
        resize_positions(positions, 1 + 63, prefix=1)


def test_a_bare_vit_model_gives_its_pooler_as_the_pre_logits_layer(sources, tmp_path):
    """The hub's files of ViTModel: no prefix, no head, and a pooler, which is dense and tanh."""
    _, places = sources
    state = load_file(places["hub"] / "model.safetensors")
    bare = {name.removeprefix("vit."): tensor for name, tensor in state.items() if not name.startswith("classifier")}
    bare |= {"pooler.dense.weight": torch.full((48, 48), 0.5), "pooler.dense.bias": torch.full((48,), 0.25)}
    save_file(bare, places["hub"] / "model.safetensors", {"format": "pt"})
    with_layer = fresh(tmp_path, representation_size=48)
    notes = start_from(places["hub"], with_layer, HEADS, tuple(CLASSES))
    assert (with_layer.pre_logits.weight == 0.5).all() and (with_layer.pre_logits.bias == 0.25).all()
    assert "it has no head: the head starts fresh" in notes[1]
    without = fresh(tmp_path)
    start_from(places["hub"], without, HEADS, tuple(CLASSES))
    assert torch.equal(without.cls_token, state["vit.embeddings.cls_token"])


def test_a_checkpoints_pre_logits_layer_is_left_out_with_its_head(tmp_path):
    config = small_config(tmp_path / "run", representation_size=16)
    step = make_checkpoint(config, scrambled(config), 7)
    notes = start_from(step, fresh(tmp_path), HEADS, tuple(CLASSES))
    assert "its pre-logits layer is left out: the head starts fresh" in notes[1]


def test_fixed_positions_need_no_resizing(tmp_path):
    """Of a checkpoint without a class token, and of another resolution."""
    parts = {"pooling": "map", "pos_embed": "sincos2d", "registers": 2}
    config = small_config(tmp_path / "run", **parts)
    model = scrambled(config)
    step = make_checkpoint(config, model, 7)
    larger = fresh(tmp_path, image_size=64, **parts)
    notes = start_from(step, larger, HEADS, tuple(CLASSES))
    assert notes == [f"starts from {step}"]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in larger.state_dict().items())


def test_a_hybrid_starts_from_one_of_another_resolution_and_other_classes(tmp_path):
    config = small_config(tmp_path / "run", name=HYBRID["name"])
    model = scrambled(config)
    mine = fresh(tmp_path, classes=2, name=HYBRID["name"], image_size=64)
    notes = start_from(make_checkpoint(config, model, 7), mine, HEADS, ("cow", "dog"))
    assert len(notes) == 3 and "the head starts fresh" in notes[1] and "4 position embeddings resized to 16" in notes[2]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, mine.state_dict()[name]) != name.startswith(("head.", "pos_embed")), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": HYBRID["name"]}, "backbone.* is missing there: compare model.name"),
        ({"width": 64}, "model.init: .* is .* there, .* in this model"),
        ({"depth": 1}, "blocks.1.* has no place"),
        ({"depth": 3}, "blocks.2.* is missing there"),
        ({"pooling": "gap"}, "cls_token has no place"),
        ({"pooling": "map"}, "cls_token has no place"),
        ({"representation_size": 48}, "pre_logits.bias is missing there"),
        ({"pos_embed": "sincos2d"}, "pos_embed has no place .*compare .*pos_embed"),
        ({"registers": 2}, "register_tokens is missing there"),
        ({"qk_norm": True}, "k_norm.weight is missing there"),
    ],
)
def test_what_does_not_fit_is_named(sources, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        start_from(sources[1]["hub"], fresh(tmp_path, **changes), HEADS, tuple(CLASSES))


def test_unreadable_places_are_named(sources, tmp_path):
    _, places = sources
    mine = fresh(tmp_path)

    def refused(place, words):
        with pytest.raises(UsageError, match=words):
            start_from(place, mine, HEADS, tuple(CLASSES))

    refused(tmp_path / "none", "no such folder")
    with pytest.raises(UsageError, match="4 attention heads, this model 6"):
        start_from(places["hub"], mine, 6, tuple(CLASSES))
    config = json.loads((places["hub"] / "config.json").read_text())
    (places["hub"] / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    refused(places["hub"], "hidden_act is relu, ours is gelu")
    (places["hub"] / "config.json").write_text(json.dumps(config | {"model_type": "swin"}))
    refused(places["hub"], "model_type is swin, not vit")
    (places["hub"] / "config.json").write_text(json.dumps(config))
    weights = places["hub"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    refused(places["hub"], "not a readable safetensors file")
    weights.rename(places["hub"] / "pytorch_model.bin")
    refused(places["hub"], "pytorch_model.bin is a pickle, which is not opened")
    (places["checkpoint"] / "rank-00000.safetensors").write_bytes(b"")
    refused(places["checkpoint"], "rank-00000.safetensors")


def test_a_run_starts_from_it_and_a_resume_does_not_need_it(tmp_path):
    make_dataset(tmp_path / "data", 64)
    first = write_run(tmp_path / "first.yaml", tmp_path / "data", epochs=None, steps=4, optimizer={"lr": 1e-2})
    train(first)
    start = shutil.copytree(tmp_path / "first" / "checkpoints" / "step-00000004", tmp_path / "step-00000004")
    same = {"epochs": None, "checkpoint": {"every_steps": 1}, "optimizer": {"lr": 1e-6}}
    cold = write_run(tmp_path / "cold.yaml", tmp_path / "data", steps=1, **same)
    train(cold)
    warm = write_run(tmp_path / "warm.yaml", tmp_path / "data", steps=1, **same)
    done = train(warm, 2, "--set", f"model.init={start}")
    assert done.stdout.count(f"starts from {start}") == 1
    assert steps_of(warm)[1]["loss"] < steps_of(cold)[1]["loss"] - 0.01
    shutil.rmtree(start)
    resumed = train(warm, 1, "--set", f"model.init={start}", "--set", "steps=2")
    assert "starts from" not in resumed.stdout and "from step-00000001" in resumed.stdout
    train(warm, 1, "--set", "steps=3")
    again = vitstream("train", warm, "--from-scratch", "--set", f"model.init={start}")
    one_line(again, "model.init", "no such folder")
