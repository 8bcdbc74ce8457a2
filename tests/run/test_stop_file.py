"""RUN/STOP: what it says, when it is obeyed, and who would find it."""

from pathlib import Path

import pytest

from pipeline.dataset.errors import UsageError
from pipeline.launch.stop import ask_to_stop, find_run, wait_for_the_end
from pipeline.run.directory import RunDirectory
from pipeline.run.stop_file import StopFile, StopOrder
from pipeline.run.verdict import Verdict
from tests.run.test_directory import OWN, process

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", StopOrder()),
        ("power cut\n at\tnoon ", StopOrder("power cut at noon")),
        ("after step 12", StopOrder("", 12)),
        ("after step 12\r\nmaintenance\n", StopOrder("maintenance", 12)),
        ("after step twelve", StopOrder("after step twelve")),
        ("\x1b[2J", StopOrder("\\x1b[2J")),
    ],
)
def test_what_it_says(tmp_path: Path, text: str, order: StopOrder) -> None:
    file = StopFile(tmp_path / "STOP")
    file.path.write_text(text)
    assert file.read() == order
    file.write(order)
    assert file.read() == order


def test_none_and_what_is_no_file(tmp_path: Path) -> None:
    assert StopFile(tmp_path / "STOP").read() is None
    (tmp_path / "STOP").mkdir()
    assert StopFile(tmp_path / "STOP").read() is None


@pytest.mark.parametrize(
    ("after_step", "ended_at", "stays"),
    [(None, -1, False), (9, 8, True), (9, 9, False), (9, -1, True), (9, None, False)],
)
def test_it_stays_for_a_later_step(tmp_path: Path, after_step: int | None, ended_at: int | None, stays: bool) -> None:
    file = StopFile(tmp_path / "STOP")
    file.write(StopOrder("why", after_step))
    file.obeyed(ended_at)
    assert file.path.exists() == stays
    file.obeyed(None)  # there or not
    assert not file.path.exists()


def test_it_is_written_only_where_somebody_would_find_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create()
    with pytest.raises(UsageError, match="never started"):
        find_run(run.path)
    assert run.new_attempt() == 0
    with pytest.raises(UsageError, match="no run is under way"):
        ask_to_stop(find_run(run.path), StopOrder())
    assert not run.stop_file.path.exists()
    with process(run.path, OWN + "time.sleep(600)") as owner:
        pid = int(owner.stdout.readline())
        for _ in range(2):  # to look is not to take
            assert ask_to_stop(run, StopOrder("why")).words == f"process {pid} on host-1 was asked to save and end now"
        assert run.stop_file.read() == StopOrder("why")
        verdict = Verdict("stop file", None, None, "step", 3, resumable=True, message="stopped")
        verdict.write(run.attempt(0))
        owner.kill()
        assert wait_for_the_end(run) == verdict
    assert run.owner() is None
