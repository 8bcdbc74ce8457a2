"""In a step, the host does not wait for the device: not in ours, and, as we run it, not in DeepSpeed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.datasets import make_dataset
from tests.ranks import run_ranks
from tests.runs import write_run


def waits(folder: Path, steps: int, *plants: str, **more: Any) -> dict[int, list[str]]:
    """step -> where the host waited, of a run with accumulation, mixing, dropout and an average, but for two steps."""
    make_dataset(folder / "train", 96)
    more |= {"ema": {}, "augment": {"mixup": 0.8, "cutmix": 1.0}, "loader": {"workers": 0}, "micro_batch_size": 16}
    more |= {"epochs": None, "steps": steps, "log_every": steps, "checkpoint": {"every_steps": 1000}}
    run = write_run(folder / "run.yaml", folder / "train", **more)
    done = run_ranks("tests.sync.rank", (run, folder / "waits.json", *plants), 1)
    assert done.codes == [0], done.stderr
    return {int(step): places for step, places in json.loads((folder / "waits.json").read_text()).items()}


def test_no_wait_and_those_that_are_put_in_are_found(tmp_path: Path) -> None:
    plants = ("5:loss", "6:result", "7:journal", "8:average")
    noise = {"clip_norm": None, "dropout": 0.1, "drop_path": 0.1, "patch_dropout": 0.2}
    found = waits(tmp_path, 9, *plants, regularization=noise)
    assert found.keys() == set(range(3, 10))
    assert not (found[3] or found[4] or found[9]), found
    assert [place.partition(":")[0] for step in range(5, 9) for place in found[step]] == ["sync/rank.py"] * 5
    assert [len(found[step]) for step in range(5, 9)] == [2, 1, 1, 1], "of the loss, once per micro-batch"


@pytest.mark.parametrize(("zero", "precision"), [("zero2", "bf16"), ("zero3", "fp32")])
def test_no_wait_with_clipping(zero: str, precision: str, tmp_path: Path) -> None:
    """And not where images are small, nor at the switch to large ones."""
    small_to_step_3 = [{"image_size": 24, "until": 0.75}]
    assert waits(tmp_path, 4, zero=zero, precision=precision, resolution=small_to_step_3) == {3: [], 4: []}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("zero", ["zero1", "zero2"])
def test_torch_sees_no_wait_on_a_gpu(zero: str, tmp_path: Path) -> None:
    """Ten steps in which torch raises at the first one."""
    found = waits(tmp_path, 12, zero=zero, precision="bf16", regularization={"clip_norm": None})
    assert found == {step: [] for step in range(3, 13)}
