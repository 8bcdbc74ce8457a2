"""TensorBoard and W&B show what metrics.jsonl says, each step once, whatever became of the processes in between."""

import json
import math
import resource
import signal
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from pipeline.config import Config
from pipeline.config_sinks import Sinks
from pipeline.dataset.errors import UsageError
from pipeline.launch.changes import changes
from pipeline.run.directory import RunDirectory
from pipeline.run.metrics import read_lines
from pipeline.sinks.feed import Feed, check_installed
from pipeline.sinks.sink import values_of
from pipeline.sinks.tensorboard import TensorBoard
from tests.datasets import make_dataset
from tests.runs import CHECKOUT, start, steps_of, train, write_run

Curves = dict[str, list[tuple[int, float]]]


def shown_by_tensorboard(folder: Path) -> Curves:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def written_by_wandb(path: Path) -> Iterator[dict[str, float]]:
    """Rows of history in a .wandb file: W&B's records, in LevelDB's log format (its log_format.md) after 7 bytes."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            record, whole = Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def shown_by_wandb(run: Path) -> tuple[set[str], Curves]:
    """Its ids, and its curves by our step."""
    ids, curves = set(), defaultdict(list)
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        ids.add(path.stem)
        for row in written_by_wandb(path):
            for tag in row.keys() - {"step", "_step", "_runtime", "_timestamp"}:
                curves[tag].append((row["step"], row[tag]))
    return ids, curves


def truth(run: Path) -> Curves:
    """As metrics.jsonl has it: of a repeated step the last line."""
    last = {(line["step"], "eval" in line): line for line in read_lines(run / "metrics.jsonl")}
    curves = defaultdict(list)
    for (step, _), line in sorted(last.items()):
        for tag, value in values_of(line).items():
            curves[tag].append((step, value))
    return curves


def kill_after(step: int, run: Path) -> None:
    """Trains until that step is in the metrics; then all of it is killed."""
    launcher = start("train", run, "--nproc", 2)
    while launcher.poll() is None:
        if (run.with_suffix("") / "metrics.jsonl").exists() and max(steps_of(run), default=0) >= step:
            break
        time.sleep(0.01)
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate(timeout=60)


def test_a_run_that_is_killed_has_unbroken_curves(tmp_path: Path) -> None:
    """It begins without sinks, gets them, is killed between two checkpoints and goes on."""
    make_dataset(tmp_path / "train", 352)
    make_dataset(tmp_path / "val", 50)
    more = {"epochs": None, "schedule": {"name": "constant"}, "log_every": 2, "checkpoint": {"every_steps": 7}}
    more |= {"evaluate": {"every_steps": 5, "crop": 1.0}}
    run = write_run(tmp_path / "run.yaml", tmp_path / "train", tmp_path / "val", steps=6, **more)
    folder = tmp_path / "run"
    train(run, 2)
    more |= {"sinks": {"tensorboard": True, "wandb": {"project": "p", "mode": "offline"}}}
    write_run(run, tmp_path / "train", tmp_path / "val", steps=40, **more)
    kill_after(18, run)
    train(run, 2)
    expected = truth(folder)
    assert [step for step, _ in expected["train/loss"]] == list(range(1, 41))
    assert [step for step, _ in expected["val/accuracy"]] == [5, 6, 10, 15, 20, 25, 30, 35, 40]
    assert len({line["attempt"] for line in read_lines(folder / "metrics.jsonl")}) == 3

    shown = shown_by_tensorboard(folder / "tensorboard")
    assert shown.keys() == expected.keys()
    for tag, curve in expected.items():
        assert [step for step, _ in shown[tag]] == [step for step, _ in curve], tag
        values = [value for _, value in shown[tag]]
        assert values == pytest.approx([value for _, value in curve], rel=1e-6), tag

    ids, shown = shown_by_wandb(folder)
    assert len(ids) == 1, "one run for all attempts"
    assert shown.keys() == expected.keys()
    for tag in ("train/loss", "train/lr", "train/grad_norm", "val/accuracy", "val/loss"):
        assert sorted(set(shown[tag])) == expected[tag], f"{tag}: of a step that was sent again, the same number"
    text = (folder / "config.yaml").read_text() + (folder / "sinks.json").read_text()
    assert "key" not in text


def feed(run: Path, first_step: int, said: list[str]) -> Feed:
    return Feed([TensorBoard(run / "tensorboard")], RunDirectory(run), first_step, said.append)


def lines(first: int, last: int) -> list[dict]:
    return [{"step": step, "loss": 1 / step, "time": 1e9 + step, "attempt": 0} for step in range(first, last + 1)]


def append(run: Path, added: list[dict]) -> list[dict]:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in added)
    return added


@pytest.mark.fast
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
def test_what_a_sink_refused_it_gets_in_the_next_attempt(tmp_path: Path) -> None:
    said: list[str] = []
    one = feed(tmp_path, 0, said)
    one.add(append(tmp_path, lines(1, 3)))
    one.close()
    two = feed(tmp_path, 3, said)
    added = append(tmp_path, lines(4, 7))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))  # the disk is full
    try:
        two.add(added[:2])
        two.add(added[2:])
        two.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(said) == 1 and said[0].startswith("sinks.tensorboard: ") and "training goes on" in said[0], said
    feed(tmp_path, 6, said).close()
    shown = shown_by_tensorboard(tmp_path / "tensorboard")["train/loss"]
    assert [step for step, _ in shown] == [1, 2, 3, 4, 5, 6]


@pytest.mark.fast
def test_a_folder_that_was_removed_is_filled_again_and_one_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    one = feed(tmp_path, 0, said)
    one.add(append(tmp_path, lines(1, 3)))
    one.close()
    (tmp_path / "tensorboard").rename(tmp_path / "elsewhere")
    feed(tmp_path, 3, said).close()
    assert shown_by_tensorboard(tmp_path / "tensorboard") == shown_by_tensorboard(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    Feed([TensorBoard(tmp_path / "file")], RunDirectory(tmp_path), 3, said.append).close()
    assert len(said) == 1 and "file" in said[0]


@pytest.mark.fast
def test_what_is_shown_of_a_line() -> None:
    line = {"step": 3, "loss": "nan", "mfu": None, "applied": False, "hosts": {"a": 0.5}, "batch_digest": "00ff"}
    shown = values_of(line | {"attempt": 1, "consumed": 96, "lr": 0.1})
    assert math.isnan(shown.pop("train/loss")) and shown == {"train/hosts/a": 0.5, "train/lr": 0.1}
    assert values_of({"eval": "val", "step": 3, "accuracy": 0.5}) == {"val/accuracy": 0.5}


@pytest.mark.fast
@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_said_before_anything_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sinks = Sinks.model_validate({name: True if name == "tensorboard" else {"project": "p"}})
    check_installed(sinks)
    monkeypatch.setattr(sys, "path", [str(CHECKOUT)])  # where packages are looked for
    with pytest.raises(UsageError, match=rf"^sinks.{name}: .*pip install 'vitstream\[{name}\]'"):
        check_installed(sinks)
    check_installed(Sinks())


@pytest.mark.fast
def test_sinks_may_change_at_any_time() -> None:
    tree = {"run_dir": "r", "data": {"train": "d"}, "model": {"name": "vit-b/16"}, "batch_size": 8, "steps": 9}
    without, with_them = Config(**tree), Config(**tree, sinks={"tensorboard": "x", "wandb": {"project": "p"}})
    assert without.hash == with_them.hash
    assert not changes(without.to_checkpoint(), with_them) and not changes(with_them.to_checkpoint(), without)
