"""verdict.json: the first to write is right, whoever comes later."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from pipeline.run.verdict import Cause, Verdict, read_verdict
from tests.runs import CHECKOUT


def verdict(rank: int) -> Verdict:
    return Verdict("exception", rank, f"host-{rank}", "step", 7, resumable=True, message=f"rank {rank} said so")


@pytest.mark.fast
@pytest.mark.parametrize("changed", [{"cause": "bad luck"}, {"cause": 5}, {"message": None}, {"cause": []}])
def test_what_is_no_verdict_is_none(tmp_path: Path, changed: dict) -> None:
    verdict(1).write(tmp_path)
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert read_verdict(tmp_path) is None


@pytest.mark.fast
def test_the_first_writer_wins(tmp_path: Path) -> None:
    assert read_verdict(tmp_path) is None
    assert verdict(1).write(tmp_path) is True
    assert verdict(2).write(tmp_path) is False
    assert read_verdict(tmp_path) == verdict(1)
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.json"]  # no temporary stays
    body = json.loads((tmp_path / "verdict.json").read_bytes())
    assert set(body) >= {"cause", "rank", "host", "phase", "step", "resumable"}  # the contract's keys


def test_of_two_processes_at_once_exactly_one_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.run.verdict import Verdict\n"
        "number = int(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "for attempt in range(40):\n"
        "    folder = Path(sys.argv[2]) / str(attempt)\n"
        "    wrote = Verdict('killed', number, 'h' * 5000, 'step', attempt, True).write(folder)\n"
        "    print(int(wrote), flush=True)\n"
    )
    for attempt in range(40):
        (tmp_path / str(attempt)).mkdir()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), str(tmp_path)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    wrote = [[int(word) for word in writer.communicate(timeout=60)[0].split()] for writer in writers]
    assert [len(words) for words in wrote] == [40, 40]
    for attempt in range(40):
        assert wrote[0][attempt] + wrote[1][attempt] == 1
        winner = 0 if wrote[0][attempt] else 1
        assert read_verdict(tmp_path / str(attempt)).rank == winner


@pytest.mark.fast
def test_one_that_overrules_takes_the_place_of_the_other(tmp_path: Path) -> None:
    verdict(1).write(tmp_path)
    assert verdict(2).write(tmp_path, overrule=True) is True
    assert read_verdict(tmp_path) == verdict(2)
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.json"]


@pytest.mark.fast
def test_one_that_cannot_be_written_leaves_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    verdict(1).write(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        verdict(2).write(tmp_path, overrule=True)
    assert read_verdict(tmp_path) == verdict(1)


@pytest.mark.fast
def test_what_is_a_stop() -> None:
    stops = {cause for cause in get_args(Cause) if replace(verdict(0), cause=cause).is_of_a_stop}
    assert stops == {"signal", "stop file", "time limit", "preempted", "cancelled"}


def test_a_pipe_in_its_place_is_no_verdict(tmp_path):
    os.mkfifo(tmp_path / "verdict.json")
    assert read_verdict(tmp_path) is None
