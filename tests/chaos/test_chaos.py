"""`vitstream chaos`: faults done to a small run of a user's own; and that it can say that something is lost."""

import json
import random
import shutil
from pathlib import Path

import pytest

from pipeline.chaos.damage import DAMAGES
from pipeline.chaos.kills import Broken, compare
from pipeline.chaos.mutations import check_damages
from pipeline.chaos.report import table
from pipeline.chaos.trial import Outcome
from tests.datasets import make_dataset
from tests.runs import one_line, train, vitstream, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, with two checkpoints."""
    folder = tmp_path_factory.mktemp("chaos")
    make_dataset(folder / "data", 100)
    path = write_run(folder / "run.yaml", folder / "data", epochs=None, steps=4, checkpoint={"every_steps": 2})
    train(path)
    return path


def test_a_users_run_is_broken_on_purpose_and_nothing_is_lost(run: Path, tmp_path: Path) -> None:
    before = sorted(run.parent.rglob("*"))
    asked = ("--kills", 1, "--stops", 1, "--mutations", 8, "--folder", tmp_path / "here", "--json")
    done = vitstream("chaos", run, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [(row["fault"], row["times"], row["held"]) for row in json.loads(done.stdout)["faults"]]
    assert rows == [("SIGKILL", 1, True), ("stop", 1, True), ("damage", 8, True)]
    assert sorted(run.parent.rglob("*")) == before, "the user's own run is left alone"
    one_line(vitstream("chaos", run, "--folder", tmp_path / "here"), "--folder", "not empty")
    one_line(vitstream("chaos", run, "--nproc", 64), "batch_size: 32", "64 ranks")


def test_what_differs_is_said(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parent / "run", tmp_path / "run")
    other = write_run(tmp_path / "run.yaml", run.parent / "data")
    compare(other, run)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    body = json.loads(lines[2])
    metrics.write_text("\n".join([*lines[:2], json.dumps(body | {"loss": body["loss"] * (1 + 1e-12)}), *lines[3:], ""]))
    with pytest.raises(Broken, match="step 3: loss is"):
        compare(other, run)
    metrics.write_text("\n".join([*lines[:-1], ""]))
    with pytest.raises(Broken, match="done by one run only"):
        compare(other, run)


def test_damage_that_is_not_found_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_damages(run, len(DAMAGES), tmp_path, random.Random(1)).total() == len(DAMAGES)
    monkeypatch.setitem(DAMAGES, "append", lambda path, chance: None)
    with pytest.raises(Broken, match=r"append of .* was not found"):
        check_damages(run, len(DAMAGES), tmp_path, random.Random(1))


def test_the_table() -> None:
    rows = table([Outcome("SIGKILL", 12, True, "6 at load"), Outcome("stop", 3, False, "step 4 is lost")])
    assert rows == [
        "fault    times  held  seen",
        "SIGKILL  12     yes   6 at load",
        "stop     3      NO    step 4 is lost",
    ]
