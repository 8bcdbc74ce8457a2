"""Asked to stop, in each phase of a run: all is saved, the verdict says so, and the same command goes on."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import verify
from pipeline.run.metrics import read_lines
from tests.faults.test_kill_resume import ranks_of, runs, until_step
from tests.runs import one_line, start, steps_of, train, verdict_of, vitstream, write_run
from tests.servers import Folder, child_environment, silent_server

PATIENCE_S = 150.0


@pytest.fixture
def slow(data) -> Iterator[tuple[Folder, str]]:
    """The datasets behind a storage that stalls when it is told to."""
    server = Folder(data[0].parent)
    with server.running() as url:
        yield server, url


def wait_for(true: Callable[[], object], launcher: subprocess.Popen) -> None:
    """Until it is true, while the run is under way."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline, "that moment does not come"
        time.sleep(0.005)


def stand_still(launcher: subprocess.Popen, run: Path, server: Folder) -> None:
    """Until no step is done any more, since data do not come."""
    last, since = -1, 0.0

    def stands() -> bool:
        nonlocal last, since
        now = max(steps_of(run), default=0)
        if now != last:
            last, since = now, time.monotonic()
        return server.waiting > 0 and time.monotonic() - since > 1.5

    wait_for(stands, launcher)


def stopped(launcher: subprocess.Popen, run: Path, attempt: int = 0) -> dict:
    """The verdict on a run that has to end, with one line and with all of its processes."""
    family = psutil.Process(launcher.pid).children(recursive=True)
    out, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 3, out + err
    assert len(err.strip().splitlines()) == 1 and "stopped" in err and "resumes" in err, err
    deadline = time.monotonic() + 5.0
    while any(map(runs, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(runs, family)), "processes outlived the run"
    verdict = verdict_of(run, attempt)
    assert verdict["resumable"] is True and verdict["message"] in err
    return verdict


def saved(run: Path) -> list[int]:
    """Steps of the checkpoints, each of which verifies."""
    return [verify(path).step for path in published(run.with_suffix("") / "checkpoints")]


def evaluations(run: Path) -> dict[int, dict]:
    return {line["step"]: line for line in read_lines(run.with_suffix("") / "metrics.jsonl") if "eval" in line}


def assert_goes_on(run: Path, undisturbed: dict[int, dict], at: int) -> None:
    """The same command, to the same end, without doing a step again."""
    train(run, 2)
    steps = steps_of(run)
    for field in ("loss", "grad_norm", "batch_digest", "consumed"):
        assert [line[field] for line in steps.values()] == [line[field] for line in undisturbed.values()], field
    assert [step for step, line in steps.items() if line["attempt"]] == list(range(at + 1, 34))
    assert 33 in evaluations(run)


@pytest.mark.parametrize(("workers", "how"), [(1, "signal"), (0, "file"), (1, "one rank")])
def test_while_data_do_not_come(data, slow, undisturbed, tmp_path, workers, how):
    server, url = slow
    loader = {"workers": workers, "prefetch": 1, "read_ahead": 1}
    run = write_run(tmp_path / "run.yaml", f"{url}/train", data[1], loader=loader, checkpoint={"every_steps": 1000})
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 3), launcher.communicate()
    server.stall()
    stand_still(launcher, run, server)
    if how == "signal":
        launcher.terminate()
        launcher.send_signal(signal.SIGINT)
    elif how == "file":
        (tmp_path / "run/STOP").write_text("the storage\nis being mended\n")
    else:  # the other one learns of it, although it waits for data too
        ranks_of(launcher)[1].send_signal(signal.SIGUSR1)
    verdict = stopped(launcher, run)
    assert verdict["phase"] == "data"
    assert verdict["cause"] == ("stop file" if how == "file" else "signal")
    words = {
        "file": "(the storage is being mended)",
        "one rank": "on SIGUSR1",
        "signal": "on SIG",
    }  # either may be first
    assert words[how] in verdict["message"]
    assert not (tmp_path / "run/STOP").exists()
    assert saved(run) == [verdict["step"]] == [max(steps_of(run))]
    server.flow()
    assert_goes_on(run, undisturbed, at=verdict["step"])


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGHUP])
def test_in_an_evaluation_which_is_done_anew(data, slow, undisturbed, tmp_path, signum):
    server, url = slow
    server.stall()
    evaluate = {"every_steps": 4, "crop": 1.0}
    run = write_run(tmp_path / "run.yaml", data[0], f"{url}/val", evaluate=evaluate, checkpoint={"every_steps": 1000})
    launcher = start("train", run, "--nproc", 2, start_new_session=True)
    wait_for(lambda: server.waiting > 0, launcher)
    os.killpg(launcher.pid, signum)
    os.killpg(launcher.pid, signal.SIGTERM)
    verdict = stopped(launcher, run)
    assert (verdict["cause"], verdict["phase"], verdict["step"]) == ("signal", "evaluate", 4)
    assert saved(run) == [4] and not evaluations(run)
    server.flow()
    assert_goes_on(run, undisturbed, at=4)
    assert {step: line["attempt"] for step, line in evaluations(run).items()} == dict.fromkeys(
        [*range(4, 33, 4), 33], 1
    )


def test_in_the_last_evaluation_which_is_all_that_is_left_to_do(data, slow, tmp_path):
    server, url = slow
    server.stall()
    run = write_run(tmp_path / "run.yaml", data[0], f"{url}/val", steps=3, epochs=None)
    launcher = start("train", run)
    wait_for(lambda: server.waiting > 0, launcher)
    launcher.send_signal(signal.SIGINT)
    verdict = stopped(launcher, run)
    assert (verdict["phase"], verdict["step"], saved(run)) == ("evaluate", 3, [3])
    server.flow()
    for attempt in (1, 2):
        done = train(run)
        assert ("accuracy" in done.stdout) == (attempt == 1), "it is done once"
        assert evaluations(run)[3]["attempt"] == 1 and verdict_of(run, attempt)["cause"] == "finished"


@pytest.mark.parametrize("moment", ["attempts/000", "attempts/000/rank-0.log"])
def test_while_it_starts(data, tmp_path, moment):
    run = write_run(tmp_path / "run.yaml", *data)
    launcher = start("train", run, "--nproc", 2, start_new_session=True)
    wait_for((tmp_path / "run" / moment).exists, launcher)
    os.killpg(launcher.pid, signal.SIGTERM)
    began = time.monotonic()
    launcher.send_signal(signal.SIGHUP)
    verdict = stopped(launcher, run)
    assert time.monotonic() - began < 10
    assert (verdict["cause"], verdict["phase"], verdict["step"]) == ("signal", "setup", None)
    assert saved(run) == [] and not steps_of(run)


def test_while_it_starts_again_by_a_file_that_lay_there(data, undisturbed, tmp_path):
    run = write_run(tmp_path / "run.yaml", *data, checkpoint={"every_steps": 5})
    launcher = start("train", run, "--nproc", 2)
    assert until_step(launcher, run, 8)
    launcher.kill()
    launcher.communicate()
    before, done = saved(run), max(steps_of(run))
    (tmp_path / "run/STOP").touch()
    verdict = stopped(start("train", run, "--nproc", 2), run, attempt=1)
    assert (verdict["cause"], verdict["phase"]) == ("stop file", "setup")
    assert saved(run) == before and max(steps_of(run)) == done
    assert not (tmp_path / "run/STOP").exists(), "the next start would stop, too"
    train(run, 2)
    assert [line["loss"] for line in steps_of(run).values()] == [line["loss"] for line in undisturbed.values()]


def test_in_a_step(data, tmp_path):
    """In the middle of one that takes long, while everything else takes milliseconds."""
    model = {"name": "vit-s/8", "image_size": 32}
    run = write_run(tmp_path / "run.yaml", *data, model=model, batch_size=88, micro_batch_size=88)
    launcher = start("train", run)
    assert until_step(launcher, run, 2)
    time.sleep(steps_of(run)[2]["step_s"] / 2)
    launcher.terminate()
    verdict = stopped(launcher, run)
    assert verdict["phase"] == "step"
    assert saved(run)[-1] == verdict["step"] == max(steps_of(run))


def test_while_it_saves(data, tmp_path):
    """A state of 260 MB."""
    model = {"name": "vit-s/8", "image_size": 32}
    run = write_run(tmp_path / "run.yaml", *data, model=model, checkpoint={"every_steps": 2}, batch_size=8)
    launcher = start("train", run, "--nproc", 2)
    wait_for(lambda: list((tmp_path / "run/checkpoints").glob("*.tmp-*")), launcher)
    launcher.terminate()
    time.sleep(0.1)
    launcher.terminate()
    verdict = stopped(launcher, run)
    assert verdict["step"] in (2, 3) and saved(run)[-1] == verdict["step"] == max(steps_of(run))
    assert not list((tmp_path / "run/checkpoints").glob("*.tmp-*"))


def test_after_a_step_by_the_command(data, slow, undisturbed, tmp_path):
    server, url = slow
    server.stall()
    evaluate = {"every_steps": 12, "crop": 1.0}
    run = write_run(tmp_path / "run.yaml", f"{url}/train", data[1], evaluate=evaluate, checkpoint={"every_steps": 1000})
    one_line(vitstream("stop", run), "it was never started")
    launcher = start("train", run, "--nproc", 2)
    wait_for((tmp_path / "run/attempts/000").exists, launcher)
    asked = start("stop", tmp_path / "run", "--after-step", 12, "--reason", "maintenance", "--wait")
    wait_for((tmp_path / "run/STOP").exists, launcher)
    time.sleep(4.0)  # the run looks for it every two seconds, in which it would do all of its steps
    server.flow()
    out, err = asked.communicate(timeout=PATIENCE_S)
    assert asked.returncode == 0, err
    verdict = stopped_already(launcher, run)
    assert out.strip() == verdict["message"] and "(maintenance)" in out
    assert (verdict["cause"], verdict["step"], saved(run)) == ("stop file", 12, [12])
    assert list(evaluations(run)) == [12], "whoever wants to stop after a step wants its evaluation"
    one_line(vitstream("stop", run), "no run is under way")
    assert not (tmp_path / "run/STOP").exists()
    assert_goes_on(run, undisturbed, at=12)


def stopped_already(launcher: subprocess.Popen, run: Path) -> dict:
    out, err = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 3, out + err
    return verdict_of(run, 0)


def test_while_the_end_waits_for_copies_which_the_next_start_makes(data, tmp_path):
    keep = {"every_steps": 10, "keep_last": 2, "copy_to": "s3://nowhere/run"}
    run = write_run(tmp_path / "run.yaml", *data, checkpoint=keep)
    with silent_server() as url:
        launcher = start("train", run, "--nproc", 2, env=child_environment(url))
        log = tmp_path / "run/attempts/000/rank-0.log"
        wait_for(lambda: log.is_file() and "step-00000033 published" in log.read_text(), launcher)
        ranks_of(launcher)[1].send_signal(signal.SIGTERM)
        verdict = stopped(launcher, run)
    assert (verdict["phase"], verdict["step"]) == ("save", 33) and "copies what is missing" in verdict["message"]
    assert saved(run) == [10, 30, 33], "what is being copied is not pruned"
    said = train(run, 2, "--set", f"checkpoint.copy_to={tmp_path / 'copies'}").stdout
    assert "finished: all 33 steps are done" in said and "training goes on" not in said
    assert [verify(path).step for path in published(tmp_path / "copies")] == [10, 30, 33]
