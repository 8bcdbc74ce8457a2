"""One run handed from any ZeRO stage and number of processes to another, through checkpoints alone."""

import itertools

import pytest
import safetensors
import torch

from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from pipeline.run.metrics import read_lines
from tests.datasets import make_dataset
from tests.ranks import run_ranks
from tests.runs import one_line, steps_of, train, vitstream, write_run

LEGS = [
    ("zero0", 2),
    ("zero3", 3),
    ("zero1", 1),
    ("zero3_offload", 2),
    ("zero2", 3),
    ("zero3", 1),
    ("zero0", 3),
]
STEPS_PER_LEG = 3
KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema")


def checkpoints_of(run):
    return published(run.with_suffix("") / "checkpoints")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    make_dataset(folder / "train", 352)
    make_dataset(folder / "val", 33)
    return folder


@pytest.fixture(scope="module")
def runs(data):
    """(an uninterrupted run, one that changed hands six times)."""
    steps = len(LEGS) * STEPS_PER_LEG
    same = {"epochs": None, "schedule": {"name": "constant"}, "batch_size": 30, "ema": {"decay": 0.8}}
    same["checkpoint"] = {"every_steps": 1000, "keep_last": 99}
    same["evaluate"] = {"every_steps": 2, "crop": 1.0, "weights": "ema"}
    whole = write_run(data / "whole.yaml", data / "train", data / "val", steps=steps, zero="zero1", **same)
    train(whole, 2)
    handed = write_run(data / "handed.yaml", data / "train", data / "val", steps=steps, **same)
    for leg, (zero, nproc) in enumerate(LEGS, start=1):
        train(handed, nproc, "--set", f"zero={zero}", "--set", f"steps={leg * STEPS_PER_LEG}")
    return whole, handed


def test_losses_go_on_as_if_nothing_had_happened(runs):
    whole, handed = (steps_of(run) for run in runs)
    assert whole.keys() == handed.keys()
    firsts = range(1, len(handed) + 1, STEPS_PER_LEG)
    assert [handed[s]["world_size"] for s in firsts] == [nproc for _, nproc in LEGS]
    for step, line in whole.items():
        assert handed[step]["batch_digest"] == line["batch_digest"]
        assert handed[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert handed[step]["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)


def test_the_average_is_evaluated_alike_and_training_does_not_feel_it(runs):
    whole, handed = (
        {line["step"]: line for line in read_lines(run.with_suffix("") / "metrics.jsonl") if "eval" in line}
        for run in runs
    )
    assert set(range(2, len(LEGS) * STEPS_PER_LEG, 2)) <= whole.keys() <= handed.keys()
    for step, line in whole.items():
        assert (handed[step]["weights"], handed[step]["samples"]) == ("ema", 33)
        assert handed[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)
    trained = steps_of(runs[0])
    assert whole[4]["loss"] != pytest.approx(trained[4]["loss"], rel=1e-3), "not told apart from the weights"


def test_the_last_checkpoints_hold_the_same(runs):
    whole, handed = (TensorReader(path, verify(path)) for path in (checkpoints_of(run)[-1] for run in runs))
    shapes = verify(checkpoints_of(runs[0])[-1]).shapes
    for kind, (name, shape) in itertools.product(KINDS, shapes.items()):
        if name.endswith("qkv.bias"):  # of which the keys' part has no gradient but rounding
            continue
        key, size = f"{kind}/{name}", torch.Size(shape).numel()
        mine, theirs = handed.read(key, 0, size), whole.read(key, 0, size)
        assert torch.linalg.vector_norm(mine - theirs) <= 1e-3 * torch.linalg.vector_norm(theirs), key


def test_every_checkpoint_holds_every_parameter_once_under_its_name(runs):
    for path, (zero, nproc) in zip(checkpoints_of(runs[1]), LEGS, strict=True):
        manifest = verify(path)
        assert (manifest.zero_stage, manifest.world_size) == (int(zero[len("zero")]), nproc)
        assert len(manifest.files) == nproc
        names = set(manifest.shapes)
        assert {"cls_token", "blocks.1.attention.qkv.weight", "head.bias"} < names
        assert set(manifest.tensors) == {f"{kind}/{name}" for kind in KINDS for name in names}
        for key, pieces in manifest.tensors.items():
            elements = torch.Size(manifest.shapes[key.partition("/")[2]]).numel()
            ranges = sorted((start, stop) for _, _, start, stop in pieces)
            assert ranges[0][0] == 0 and ranges[-1][1] == elements
            assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
            for file, stored, start, stop in pieces:
                with safetensors.safe_open(path / file, framework="np") as tensors:
                    shape = tensors.get_slice(stored).get_shape()
                whole = (start, stop) == (0, elements)
                assert shape == (manifest.shapes[key.partition("/")[2]] if whole else [stop - start])


def test_bf16_is_handed_over(data):
    """Stage 3 has a linear layer of its own, which rounds a bf16 product before it adds the bias."""
    same = {"epochs": None, "schedule": {"name": "constant"}, "batch_size": 16, "precision": "bf16"}
    whole = write_run(data / "whole16.yaml", data / "train", steps=6, zero="zero2", **same)
    train(whole, 2)
    handed = write_run(data / "handed16.yaml", data / "train", steps=6, **same)
    for leg, zero in enumerate(("zero1", "zero3_offload", "zero2"), start=1):
        train(handed, 2, "--set", f"zero={zero}", "--set", f"steps={2 * leg}")
    steps, expected = steps_of(handed), steps_of(whole)
    assert [steps[s]["loss"] for s in (1, 2)] == [expected[s]["loss"] for s in (1, 2)]
    assert expected[6]["loss"] < 0.97 * expected[1]["loss"], "nothing was learned that could be lost"
    assert [line["loss"] for line in steps.values()] == pytest.approx(
        [line["loss"] for line in expected.values()], rel=1e-3
    )


def test_sgd_and_mixed_groups_are_handed_over(data):
    """One moment, three groups of other rates and decays, kept at every stage and number of processes."""
    groups = [{"match": r"head\..*", "lr": 0.5, "weight_decay": 5}]
    optimizer = {"name": "sgd", "lr": 0.02, "layer_decay": 0.5, "groups": groups}
    same = {"epochs": None, "schedule": {"name": "constant"}, "batch_size": 16, "optimizer": optimizer}
    whole = write_run(data / "whole-sgd.yaml", data / "train", steps=6, zero="zero1", **same)
    train(whole, 2)
    handed = write_run(data / "handed-sgd.yaml", data / "train", steps=6, **same)
    for leg, (zero, nproc) in enumerate([("zero3", 2), ("zero0", 1), ("zero2", 2)], start=1):
        said = train(handed, nproc, "--set", f"zero={zero}", "--set", f"steps={2 * leg}").stdout
        assert "sgd: lr x 0.5, weight decay 0.5: 325 parameters in 2 tensors (head.weight, head.bias)" in said
    ours, expected = steps_of(handed), steps_of(whole)
    assert [ours[s]["loss"] for s in ours] == pytest.approx([expected[s]["loss"] for s in expected], rel=1e-5)
    one, other = (TensorReader(path, verify(path)) for path in (checkpoints_of(run)[-1] for run in (whole, handed)))
    manifest = verify(checkpoints_of(handed)[-1])
    assert {key.partition("/")[0] for key in manifest.tensors} == {"weight", "momentum_buffer"}
    for key in manifest.tensors:
        size = torch.Size(manifest.shapes[key.partition("/")[2]]).numel()
        mine, theirs = other.read(key, 0, size), one.read(key, 0, size)
        assert key.endswith("qkv.bias") or torch.linalg.vector_norm(mine - theirs) <= 1e-4 * theirs.norm(), key
    refused = vitstream("train", handed, "--set", "optimizer.name=adamw", "--set", "steps=7")
    one_line(refused, "optimizer.name: sgd -> adamw", "does not go on with the other optimizer's moments")
    said = train(handed, 1, "--set", "optimizer.name=adamw", "--set", "steps=7", "--accept-changes").stdout
    assert "that checkpoint has no exp_avg: it begins at zero" in said
    assert verify(checkpoints_of(handed)[-1]).optimizer_step == 1


@pytest.mark.parametrize("world", [1, 3])
def test_what_the_model_works_with_is_what_was_restored_to_the_last_bit(world, tmp_path):
    ended = run_ranks("tests.checkpoint.publish_rank", (tmp_path,), world)
    assert ended.codes == [0] * world, ended.stderr


def test_an_average_that_begins_later_begins_as_the_weights_are(data):
    run = write_run(data / "later.yaml", data / "train", epochs=None, steps=2, batch_size=16)
    train(run)
    done = train(run, 2, "--set", "steps=3", "--set", "ema.decay=0.75", "--set", "zero=zero3")
    assert "that checkpoint has no average" in done.stdout and "ema: None -> {'decay': 0.75}" in done.stdout
    before, after = (TensorReader(path, verify(path)) for path in checkpoints_of(run))
    for name, shape in verify(checkpoints_of(run)[-1]).shapes.items():
        size = torch.Size(shape).numel()
        expected = 0.75 * before.read(f"weight/{name}", 0, size) + 0.25 * after.read(f"weight/{name}", 0, size)
        torch.testing.assert_close(after.read(f"ema/{name}", 0, size), expected)
