"""What is told of steps that were not applied; and whole runs that meet them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from pipeline.data.corpus import fit_order, open_corpus
from pipeline.data.lookup import keys_of
from pipeline.dataset.errors import WorkFailed
from pipeline.run.directory import RunDirectory
from pipeline.run.metrics import read_lines
from pipeline.run.nonfinite import NonFinite
from tests.datasets import make_dataset
from tests.ranks import run_ranks
from tests.runs import steps_of, verdict_of, vitstream, write_run


def line(step: int, loss: float = 1.0, norm: float = 1.0) -> dict:
    found = {"step": step, "epoch": 0, "consumed": 8 * step, "loss": loss, "grad_norm": norm, "attempt": 0}
    return found if math.isfinite(norm) else found | {"applied": False}


@pytest.fixture
def seen(tmp_path: Path) -> NonFinite:
    make_dataset(tmp_path / "data", 40)
    corpus = open_corpus(tmp_path / "data")
    run = RunDirectory(tmp_path / "run")
    run.create()
    return NonFinite(run, corpus, fit_order(corpus, 8, 0), most=2, writes=True)


@pytest.mark.fast
def test_it_names_the_samples_counts_and_stops_in_the_end(seen: NonFinite) -> None:
    lines = [line(1), line(2, math.nan, math.inf), line(3)]
    (said,) = seen.see(lines, [8, 8, 8])
    seen.check(lines)
    seen.file.sync()
    assert "step 2" in said and "not applied (1 of at most 2 in this attempt)" in said and seen.sound
    (written,) = read_lines(seen.run.nonfinite)
    assert (written["step"], written["loss"], written["grad_norm"]) == (2, "nan", "inf")
    assert len(set(written["keys"])) == 8
    lines = [line(4, math.nan, math.inf), line(5, math.inf, math.inf)]
    assert len(seen.see(lines, [8, 8])) == 2 and not seen.sound
    with pytest.raises(WorkFailed, match=r"3 steps of this attempt .* step 5: training has diverged") as met:
        seen.check(lines)
    assert not met.value.resumable


@pytest.mark.fast
def test_a_loss_that_is_not_finite_though_the_gradient_is_ends_the_run_at_once(seen: NonFinite) -> None:
    lines = [line(1, math.inf, 2.0)]
    assert seen.see(lines, [8]) == [] and not seen.sound
    with pytest.raises(WorkFailed, match=r"step 1: loss inf, gradient norm 2\.0: training"):
        seen.check(lines)


def test_a_run_that_diverges_goes_on_for_as_long_as_it_may(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", 96)
    same = {"optimizer": {"lr": 1e30}, "schedule": {"name": "constant"}, "epochs": 40, "max_nonfinite_steps": 4}
    run = write_run(tmp_path / "run.yaml", tmp_path / "data", checkpoint={"every_steps": 1}, **same)
    done = vitstream("train", run)
    assert done.returncode == 1 and "5 steps of this attempt" in done.stderr and "optimizer.lr" in done.stderr
    assert not verdict_of(run, 0)["resumable"]
    left_out = [step for step, line in steps_of(run).items() if not line.get("applied", True)]
    told = [json.loads(text) for text in (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()]
    assert [each["step"] for each in told] == left_out and len(left_out) == 5
    assert all(len(each["keys"]) == 32 for each in told)
    assert all(verify(path).step not in left_out for path in published(tmp_path / "run" / "checkpoints"))


@pytest.mark.parametrize(
    ("zero", "precision"), [("zero0", "fp32"), ("zero1", "bf16"), ("zero2", "fp32"), ("zero3", "bf16")]
)
def test_a_whole_run_leaves_nan_pixels_and_huge_gradients_out(zero: str, precision: str, tmp_path: Path) -> None:
    """On 2 processes, of which one alone meets them."""
    make_dataset(tmp_path / "data", 96)
    extra = {"zero": zero, "precision": precision, "batch_size": 16, "log_every": 2, "steps": 7, "epochs": None}
    extra["schedule"] = {"name": "constant"}
    run = write_run(tmp_path / "run.yaml", tmp_path / "data", checkpoint={"every_steps": 1, "keep_last": 9}, **extra)
    ended = run_ranks("tests.run.spoiled_rank", (tmp_path, "3:nan", "5:huge", "--", "train", run), 2)
    assert ended.codes == [0, 0], (ended.stdout, ended.stderr)
    lines = steps_of(run)
    assert [step for step, line in lines.items() if not line.get("applied", True)] == [3, 5]
    assert all(math.isfinite(float(lines[step]["loss"])) for step in (1, 2, 4, 6, 7))
    first, last = (json.loads((tmp_path / f"hashes-{rank}.json").read_text()) for rank in range(2))
    assert first == last and list(first) == [*"1234567"], "bit-equal weights on all ranks, after every step"
    assert (first["3"], first["5"]) == (first["2"], first["4"]) and len(set(first.values())) == 5
    told, corpus = list(read_lines(tmp_path / "run" / "nonfinite.jsonl")), open_corpus(tmp_path / "data")
    order = fit_order(corpus, 16, 0)
    assert [(each["step"], set(each["keys"])) for each in told] == [
        (step, set(keys_of(corpus, order.at(np.arange(16 * step - 16, 16 * step))[1]))) for step in (3, 5)
    ]
    assert "step 3: its gradient is not finite, and it was not applied (1 of at most 10" in ended.stdout
    saved = [verify(path).step for path in published(tmp_path / "run" / "checkpoints")]
    assert saved == [1, 2, 4, 6, 7], "none right after such a step"
