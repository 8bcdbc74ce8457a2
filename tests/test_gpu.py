"""What only a GPU can show. Skipped, with the reason, where there is none."""

import pytest
import torch

from pipeline.run.metrics import read_lines
from tests.datasets import make_dataset
from tests.runs import steps_of, train, write_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("zero", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_bf16_on_a_gpu_trains_and_resumes(tmp_path, zero):
    make_dataset(tmp_path / "data", 352)
    make_dataset(tmp_path / "val", 40)
    extra = {"precision": "bf16", "zero": zero, "epochs": None}
    extra["evaluate"] = {"every_steps": 3, "crop": 1.0}  # each time with a ring of its own that is pinned, and let go
    extra["schedule"] = {"name": "constant"}  # so that a run of 5 steps is the first half of one of 10
    whole = write_run(tmp_path / "whole.yaml", tmp_path / "data", tmp_path / "val", steps=10, **extra)
    train(whole)
    parts = write_run(tmp_path / "parts.yaml", tmp_path / "data", tmp_path / "val", steps=10, **extra)
    train(parts, 1, "--set", "steps=5")
    train(parts)
    digests = [line["batch_digest"] for line in steps_of(parts).values()]
    assert digests == [line["batch_digest"] for line in steps_of(whole).values()]
    losses = [line["loss"] for line in steps_of(parts).values()]
    assert losses == pytest.approx([line["loss"] for line in steps_of(whole).values()], rel=1e-2)
    assert {line["attempt"] for line in read_lines(tmp_path / "parts" / "metrics.jsonl")} == {0, 1}
    assert steps_of(parts)[10]["loss"] < steps_of(parts)[1]["loss"]
