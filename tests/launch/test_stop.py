"""`vitstream stop` of what waits in a queue; of what trains, see tests/run/test_stop_file.py and tests/faults."""

from pathlib import Path

import pytest

from pipeline.dataset.errors import UsageError
from pipeline.launch.stop import ask_to_stop, find_run, is_under_way
from pipeline.run.stop_file import StopOrder
from tests.cluster.fake import Fake, slurm  # noqa: F401
from tests.cluster.test_status import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run").submitted(7, 8)


def test_what_only_waits_is_cancelled(run: Run, slurm: Fake) -> None:  # noqa: F811
    slurm.queue(run.line(7, "PENDING", "Priority"), run.line(8, "PENDING", "Dependency"))
    slurm.says("scancel", ': > "${0%/*}/queue"')
    asked = ask_to_stop(find_run(run.path), StopOrder())
    assert (asked.words, asked.is_awaited) == ("cancelled, before any had started: jobs 7, 8", False)
    assert slurm.calls("scancel") == [["--quiet", "--state=PENDING", "7", "8"]]
    assert not run.directory.stop_file.path.exists()


def test_a_job_that_starts_meanwhile_is_asked(run: Run, slurm: Fake) -> None:  # noqa: F811
    slurm.queue(run.line(7, "PENDING", "Priority"))
    slurm.says("scancel", f"echo '{run.line(7, 'RUNNING')}' > \"${{0%/*}}/queue\"")
    asked = ask_to_stop(find_run(run.path), StopOrder("why"))
    assert asked.is_awaited and asked.words.startswith("job 7 was asked") and run.directory.stop_file.read() is not None


def test_a_running_job_finds_the_file_and_no_job_is_cancelled_by_us(run: Run, slurm: Fake) -> None:  # noqa: F811
    slurm.queue(run.line(7, "RUNNING"), run.line(8, "PENDING", "Dependency"))
    asked = ask_to_stop(find_run(run.path), StopOrder(after_step=1000))
    assert asked.words == "job 7 was asked to save and end after step 1,000" and slurm.calls("scancel") == []
    order = run.directory.stop_file.read()
    assert order is not None and order.after_step == 1000 and is_under_way(run.directory)


def test_a_later_step_is_told_to_what_waits(run: Run, slurm: Fake) -> None:  # noqa: F811
    slurm.queue(run.line(7, "PENDING", "Priority"))
    asked = ask_to_stop(find_run(run.path), StopOrder(after_step=10))
    assert "job 7, once started, was asked" in asked.words and slurm.calls("scancel") == []


def test_nothing_is_left_to_stop(run: Run, slurm: Fake, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    slurm.queue(run.line(7, "COMPLETED"), run.line(8, "CANCELLED"))
    with pytest.raises(UsageError, match="none to stop"):
        ask_to_stop(find_run(run.path), StopOrder())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="none to stop"):
        ask_to_stop(find_run(run.path), StopOrder())
