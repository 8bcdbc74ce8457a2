"""The end of a log, what is added to it, and the next attempt's."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.job import Submission
from pipeline.dataset.errors import UsageError
from pipeline.launch import logs
from pipeline.run.directory import RunDirectory
from tests.runs import one_line, vitstream


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@given(st.lists(st.text("ab é", max_size=8)), st.integers(0, 6), st.booleans(), st.integers(1, 9))
def test_the_last_lines_are_the_last_lines(tmp_path_factory, lines, count, torn, block) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    text = "".join(f"{line}\n" for line in lines) + ("torn" if torn else "")
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_BLOCK", block)
        said, end = logs.last_lines(path, count)
    expected = [*lines, *(["torn"] if torn else [])]
    assert said == expected[max(0, len(expected) - count) :] and end == len(text.encode())


def test_of_a_progress_bar_the_last_word_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"1%\r50%\r100%\r\na\tb\xff\n")
    assert logs.last_lines(tmp_path / "log", 9)[0] == ["100%", "a       b\ufffd"]


def test_which_log_is_shown(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="not started yet"):
        logs.rank_log(run)
    for _ in range(2):
        folder = run.attempt(run.new_attempt())
        for rank in (0, 2):
            (folder / f"rank-{rank}.log").touch()
    assert logs.rank_log(run) == run.attempt(1) / "rank-0.log"
    assert logs.rank_log(run, attempt=0, rank=2) == run.attempt(0) / "rank-2.log"
    with pytest.raises(UsageError, match=r"there are rank-0.log, rank-2.log"):
        logs.rank_log(run, rank=1)
    with pytest.raises(UsageError, match="no attempt 7; the last one is 1"):
        logs.rank_log(run, attempt=7)


def test_the_newest_jobs_log(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="no job"):
        logs.job_log(run)
    for number, jobs in enumerate([(7, 8), (9, 10)]):
        submission = Submission(run.path / "submit" / f"{number:03d}")
        submission.path.mkdir(parents=True)
        for job in jobs:
            submission.add_job(job)
    Submission(run.path / "submit" / "000").log(8).touch()
    assert logs.job_log(run).name == "job-8.log"
    Submission(run.path / "submit" / "001").log(9).touch()
    assert logs.job_log(run).name == "job-9.log"


def test_a_log_that_will_come_is_waited_for(run: RunDirectory) -> None:
    looks: list[int] = []

    def may_start() -> bool:
        looks.append(1)
        if len(looks) == 2:
            (run.attempt(run.new_attempt()) / "rank-0.log").touch()
        return len(looks) < 4

    assert logs.awaited(lambda: logs.rank_log(run), may_start).name == "rank-0.log" and len(looks) == 2
    with pytest.raises(UsageError, match=r"rank-1.log"):
        logs.awaited(lambda: logs.rank_log(run, rank=1), may_start)


def test_following_goes_on_in_the_next_attempt_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LOOK_S", 0.01)
    monkeypatch.setattr(logs, "_LOOK_AT_RUN_S", 0.05)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old\nha")
    newest, over = [first], threading.Event()
    said: list[str] = []

    def read() -> None:
        said.extend(logs.follow(lambda: newest[0], first, 4, lambda: not over.is_set()))

    reader = threading.Thread(target=read)
    reader.start()
    with first.open("a") as file:
        file.write("lf\nmore\n")
    second.write_text("next\ntorn")
    newest[0] = second
    threading.Timer(0.3, over.set).start()
    reader.join(20)
    assert not reader.is_alive() and said[-3:] == [f"-- {second}", "next", "torn"]
    assert said[:-3] in ([], ["half", "more"])


def test_wrong_usage_is_one_line(run: RunDirectory) -> None:
    run.new_attempt()
    one_line(vitstream("logs", run.path, "--job", "--rank", 1), "--job")
    one_line(vitstream("logs", run.path), "rank-0.log", "yet")
    one_line(vitstream("logs", run.path / "nowhere"), "nowhere")
