"""RUN/: one owner at a time, free the moment that its owner is dead."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.dataset.errors import UsageError
from pipeline.run.directory import RunDirectory
from tests.runs import CHECKOUT

PRELUDE = (
    "import os, sys, time; from pathlib import Path\n"
    "from pipeline.dataset.errors import UsageError\n"
    "from pipeline.run.directory import RunDirectory\n"
    "run = RunDirectory(Path(sys.argv[1])); run.create()\n"
)
OWN = "run.own(); run.sign('host-1'); print(os.getpid(), flush=True)\n"


@contextmanager
def process(run: Path, code: str) -> Iterator[subprocess.Popen]:
    """A process that prints a line when it is where the test wants it; killed at the end."""
    started = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(run)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def try_to_own(run: Path) -> str:
    """What a new process gets when it takes the run: "owned", or the refusal."""
    code = "try:\n    run.own(); print('owned')\nexcept UsageError as error: print(error)\n"
    with process(run, code) as other:
        return other.communicate(timeout=60)[0].strip()


def test_a_second_process_is_refused_by_name_and_welcome_after_kill_9(tmp_path: Path) -> None:
    with process(tmp_path / "run", OWN + "time.sleep(600)") as owner:
        pid = int(owner.stdout.readline())
        for _ in range(2):  # a refusal must not weaken the lock
            refusal = try_to_own(tmp_path / "run")
            assert refusal == f"run_dir: {tmp_path}/run is in use by process {pid} on host-1; stop it first"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert try_to_own(tmp_path / "run") == "owned"


def test_a_fork_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    """A loader's worker may live a moment longer than its rank: it must not hold the run."""
    fork = "child = os.fork()\nif child == 0: time.sleep(600)\nprint(child, flush=True); time.sleep(600)"
    with process(tmp_path / "run", OWN + fork) as owner:
        owner.stdout.readline()
        child = int(owner.stdout.readline())
        try:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            os.kill(child, 0)  # it lives
            assert try_to_own(tmp_path / "run") == "owned"
        finally:
            os.kill(child, signal.SIGKILL)


def test_an_owner_leaves_room_for_its_rank_0_and_waits_for_an_old_one(tmp_path: Path) -> None:
    rank_0 = "run.own_as_rank_0(); print('rank 0', flush=True); time.sleep(600)"
    with process(tmp_path / "run", OWN + "time.sleep(600)") as owner:
        owner.stdout.readline()
        with process(tmp_path / "run", rank_0) as old:
            assert old.stdout.readline() == "rank 0\n"
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            with process(tmp_path / "run", "print('up', flush=True); run.own(); print('owned', flush=True)") as new:
                assert new.stdout.readline() == "up\n"
                with pytest.raises(subprocess.TimeoutExpired):
                    new.wait(0.5)  # waits for the old rank 0, which may still write
                old.send_signal(signal.SIGKILL)
                assert new.stdout.readline() == "owned\n"


@pytest.mark.fast
def test_attempts_are_numbered_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    assert run.attempts() == []
    assert [run.new_attempt() for _ in range(3)] == [0, 1, 2]
    (run.path / "attempts/.hidden").mkdir()
    (run.path / "attempts/1000").mkdir()
    assert run.attempts() == [0, 1, 2, 1000] and run.new_attempt() == 1001
    assert run.attempt(2) == run.path / "attempts/002" and run.attempt(2).is_dir()


@pytest.mark.fast
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"run_dir: cannot write to .*file/run \(Not a directory\)"):
        RunDirectory(tmp_path / "file/run").create()
