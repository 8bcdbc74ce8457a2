"""A step whose gradient is not finite leaves no trace, at every ZeRO stage, in fp32 and bf16, on all ranks alike."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import run_ranks
from tests.runs import write_run

WORLD = 2


def steps(folder: Path, zero: str, precision: str, optimizer: str, *spoilt: str) -> list[tuple[dict, dict]]:
    """(tensors, facts) of each rank."""
    folder.mkdir()
    run = write_run(folder / "run.yaml", Path("x"), zero=zero, precision=precision, optimizer={"name": optimizer})
    ended = run_ranks("tests.optim.finite_rank", (run, folder, *spoilt), WORLD)
    assert ended.codes == [0] * WORLD, ended.stderr
    files = (folder / f"rank-{rank}" for rank in range(WORLD))
    return [(load_file(f.with_suffix(".safetensors")), json.loads(f.with_suffix(".json").read_text())) for f in files]


@pytest.mark.parametrize(
    ("zero", "precision", "optimizer"),
    [
        ("zero0", "fp32", "adamw"),
        ("zero1", "fp32", "sgd"),
        ("zero1", "bf16", "adamw"),
        ("zero2", "fp32", "adamw"),
        ("zero2", "bf16", "adamw"),
        ("zero3", "fp32", "adamw"),
        ("zero3", "bf16", "sgd"),
        ("zero3_offload", "fp32", "adamw"),
    ],
)
def test_spoilt_steps_are_as_if_they_had_not_been(zero: str, precision: str, optimizer: str, tmp_path: Path) -> None:
    spoilt = steps(tmp_path / "spoilt", zero, precision, optimizer, "2:nan", "4:huge")
    without = steps(tmp_path / "without", zero, precision, optimizer, "2:skip", "4:skip")
    for (ours, facts), (theirs, expected) in zip(spoilt, without, strict=True):
        assert [math.isfinite(norm) for norm in facts["norms"]] == [True, False, True, False, True, True]
        assert [norm for norm in facts["norms"] if math.isfinite(norm)] == expected["norms"]
        assert facts["steps"] == expected["steps"] == (4 if optimizer == "adamw" else 0)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), "to the last bit"
    assert spoilt[0][1] == spoilt[1][1], "alike on all ranks"
