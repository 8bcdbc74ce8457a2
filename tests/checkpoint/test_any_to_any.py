"""One run handed from any ZeRO stage and number of processes to another, through checkpoints alone."""

import itertools

import pytest
import safetensors

from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from tests.datasets import make_dataset
from tests.runs import steps_of, train, write_run

LEGS = [("zero0", 2), ("zero1", 3), ("zero2", 1), ("zero0", 1), ("zero2", 2), ("zero1", 2), ("zero0", 3)]
STEPS_PER_LEG = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(an uninterrupted run, one that changed hands six times)."""
    folder = tmp_path_factory.mktemp("any")
    make_dataset(folder / "data", 352)
    steps = len(LEGS) * STEPS_PER_LEG
    same = {"epochs": None, "schedule": {"name": "constant"}, "batch_size": 30}
    same["checkpoint"] = {"every_steps": 1000, "keep_last": 99}
    whole = write_run(folder / "whole.yaml", folder / "data", steps=steps, zero="zero1", **same)
    train(whole, 2)
    handed = write_run(folder / "handed.yaml", folder / "data", steps=steps, **same)
    for leg, (zero, nproc) in enumerate(LEGS, start=1):
        train(handed, nproc, "--set", f"zero={zero}", "--set", f"steps={leg * STEPS_PER_LEG}")
    return whole, handed


def test_losses_go_on_as_if_nothing_had_happened(runs):
    whole, handed = (steps_of(run) for run in runs)
    assert whole.keys() == handed.keys()
    assert [handed[s]["world_size"] for s in range(1, 22, STEPS_PER_LEG)] == [nproc for _, nproc in LEGS]
    for step, line in whole.items():
        assert handed[step]["batch_digest"] == line["batch_digest"]
        assert handed[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert handed[step]["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)


def test_every_checkpoint_holds_every_parameter_once_under_its_name(runs):
    for path, (zero, nproc) in zip(published(runs[1].with_suffix("") / "checkpoints"), LEGS, strict=True):
        manifest = verify(path)
        assert (manifest.zero_stage, manifest.world_size) == (int(zero[-1]), nproc)
        assert len(manifest.files) == nproc
        names = set(manifest.shapes)
        assert {"cls_token", "blocks.1.attention.qkv.weight", "head.bias"} < names
        assert set(manifest.tensors) == {f"{k}/{n}" for k in ("weight", "exp_avg", "exp_avg_sq") for n in names}
        for key, pieces in manifest.tensors.items():
            elements = 1
            for side in manifest.shapes[key.partition("/")[2]]:
                elements *= side
            ranges = sorted((start, stop) for _, _, start, stop in pieces)
            assert ranges[0][0] == 0 and ranges[-1][1] == elements
            assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
            for file, stored, start, stop in pieces:
                with safetensors.safe_open(path / file, framework="np") as tensors:
                    shape = tensors.get_slice(stored).get_shape()
                whole = (start, stop) == (0, elements)
                assert shape == (manifest.shapes[key.partition("/")[2]] if whole else [stop - start])
