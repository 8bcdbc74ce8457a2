"""A run's state, from its folder and from what SLURM says, and the exit code that a cron job goes by."""

import json
import os
import time
from pathlib import Path

import pytest

from pipeline.cluster.blame import BlameLedger
from pipeline.cluster.chain import chain_name
from pipeline.cluster.job import JobFile, Submission
from pipeline.cluster.status import Status, status_of
from pipeline.cluster.status_lines import as_lines
from pipeline.run.beat import Beat, beat_file
from pipeline.run.directory import RunDirectory
from pipeline.run.verdict import Verdict
from tests.cluster.fake import Fake
from tests.runs import one_line, vitstream


def verdict(cause: str, resumable: bool = True) -> Verdict:
    return Verdict(cause, 3, "node2", "step", 12, resumable, f"it is {cause}")


class Run:
    """A run's folder, made by hand."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, chain_name(path)
        self.directory = RunDirectory(path)
        self.directory.create()

    def submitted(self, *jobs: int) -> "Run":
        submission = Submission(self.path / "submit" / "000")
        submission.path.mkdir(parents=True)
        JobFile(str(self.path), "c.yaml", "p", (), 2, 2, None, None, 60, self.name, 50, 3, False, False).write(
            submission.job_file
        )
        for job in jobs:
            submission.add_job(job)
        return self

    def attempt(self, verdict: Verdict | None = None, **facts: object) -> "Run":
        folder = self.directory.attempt(self.directory.new_attempt())
        (folder / "attempt.json").write_text(json.dumps(facts))
        if verdict:
            verdict.write(folder)
        return self

    def line(self, job: int, state: str, reason: str = "None") -> str:
        return f"{job}|{state}|{reason}|2026-11-29T18:06:45|9:58|node[1-2]|{self.name}"

    @property
    def status(self) -> Status:
        return status_of(self.directory)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_never_started_and_no_such_run(tmp_path: Path, run: Run, slurm: Fake) -> None:
    one_line(vitstream("status", tmp_path / "run"), "never started")
    one_line(vitstream("status", tmp_path / "nowhere"), "nowhere")
    run.submitted(7, 8)
    found = run.status
    assert (found.state, found.exit_code) == ("never started", 1) and "no job of its chain is left" in found.why


def test_queued_and_why_it_waits(run: Run, slurm: Fake) -> None:
    run.submitted(7, 8)
    slurm.queue(run.line(7, "PENDING", "Priority"), run.line(8, "PENDING", "Dependency"))
    found = run.status
    assert (found.state, found.exit_code, [job.id for job in found.jobs]) == ("queued", 0, [7, 8])
    text = "\n".join(as_lines(found))
    assert "others come first; may start 29 Nov 18:06" in text and "waits for the job before it" in text


@pytest.mark.parametrize("reason", ["DependencyNeverSatisfied", "JobHeldUser", "BadConstraints"])
def test_queued_for_ever_needs_a_human(run: Run, slurm: Fake, reason: str) -> None:
    run.submitted(7, 8)
    slurm.queue(run.line(7, "PENDING", reason))
    assert (run.status.state, run.status.exit_code) == ("queued", 1)
    slurm.queue(run.line(7, "PENDING", reason), run.line(8, "PENDING", "Dependency"))
    assert run.status.exit_code == 1, "the second one waits for it"
    slurm.queue(run.line(7, "PENDING", "Resources"), run.line(8, "PENDING", reason))
    assert run.status.exit_code == 0


def test_running_on_a_cluster(run: Run, slurm: Fake) -> None:
    run.submitted(7, 8).attempt(verdict("hang"), job=7, hosts=["node1", "node2"]).attempt(job=7, hosts=["node3"])
    slurm.queue(run.line(7, "RUNNING"), run.line(8, "PENDING", "Dependency"))
    found = run.status
    assert (found.state, found.exit_code, found.attempt, found.hosts) == ("running", 0, 1, ("node3",))
    assert found.verdict is not None and (found.verdict.cause, found.verdict_of) == ("hang", 0)
    assert "9:58 until its limit" in "\n".join(as_lines(found)) and "attempt 0: hang: it is hang" in as_lines(found)[-1]


@pytest.mark.parametrize(
    ("cause", "jobs", "state", "code"),
    [
        ("finished", [], "finished", 0),
        ("finished", ["PENDING"], "finished", 0),
        *((cause, ["CANCELLED"], "stopped", 3) for cause in ("stop file", "signal", "time limit", "preempted")),
        *((cause, ["PENDING"], "queued", 0) for cause in ("time limit", "preempted", "node lost", "hang")),
        *((cause, ["FAILED", "CANCELLED"], "failed", 1) for cause in ("exception", "hang", "out of memory", "usage")),
    ],
)
def test_what_is_after_an_attempt(run: Run, slurm: Fake, cause: str, jobs: list[str], state: str, code: int) -> None:
    run.submitted(*range(7, 7 + len(jobs))).attempt(verdict(cause), job=7)
    slurm.queue(*(run.line(7 + number, state) for number, state in enumerate(jobs)))
    assert (run.status.state, run.status.exit_code) == (state, code)


def test_an_attempt_without_a_word_has_failed(run: Run, slurm: Fake) -> None:
    run.submitted(7).attempt(job=7)
    slurm.queue(run.line(7, "NODE_FAIL"))
    assert (run.status.state, run.status.exit_code) == ("failed", 1) and "without a word" in run.status.why


def test_a_job_by_hand_is_found_by_its_number(run: Run, slurm: Fake) -> None:
    run.attempt(job=7, hosts=["node1"])
    slurm.queue("7|RUNNING|None|N/A|UNLIMITED|node1|whatever")
    found = run.status
    assert found.state == "running" and found.jobs[0].id == 7 and found.jobs[0].left_s is None


@pytest.mark.parametrize(
    ("cause", "state"), [(None, "queued"), ("time limit", "queued"), ("stop file", "stopped"), ("hang", "failed")]
)
def test_where_slurm_is_not_the_folder_has_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, cause: str | None, state: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    run.submitted(7, 8)
    if cause:
        run.attempt(verdict(cause), job=7)
    found = run.status
    assert found.state == state and "not on this machine" in found.notes[0] and "no job" not in found.why


def put_beat(run: Run, rank: int, ago: float = 0.0, **changes: object) -> None:
    now = time.time()
    values = {"phase": "step", "step": 12, "entered": 30, "since": now - ago, "beat": now - ago, "waits": False}
    values |= {"ended": False, "longest": {"step": 1.0}} | changes
    path = beat_file(run.directory.attempt(run.directory.attempts()[-1]), rank)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(Beat(rank=rank, host=f"node{rank // 2 + 1}", pid=1, **values).line())


def test_late_and_slow_ranks_are_named(run: Run, slurm: Fake) -> None:
    run.submitted(7).attempt(job=7)
    slurm.queue(run.line(7, "RUNNING"))
    for rank in range(4):
        put_beat(run, rank)
    assert run.status.ranks == () and run.status.hosts == ("node1", "node2") and run.status.step == 12
    put_beat(run, 3, longest={"step": 2.5})
    [slow] = run.status.ranks
    assert (slow.rank, slow.host) == (3, "node2") and "slowest: a step took it up to 2.50 s" in slow.why
    put_beat(run, 1, ago=45)
    [silent] = run.status.ranks
    assert (silent.rank, silent.why) == (1, "no sign of life") and 44 < silent.silent_s < 60
    put_beat(run, 1)
    put_beat(run, 2, ago=0, since=time.time() - 100, phase="data")
    [late] = run.status.ranks
    assert (late.rank, late.phase) == (2, "data") and "far longer" in late.why
    put_beat(run, 2, since=time.time() - 100, waits=True, longest={"step": 1.0})
    assert [rank.rank for rank in run.status.ranks] == [3]
    assert any(line.startswith("rank     3 on node2: in step") for line in as_lines(run.status))


def test_beats_alone_say_that_it_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    run.attempt()
    put_beat(run, 0)
    assert run.status.state == "running"
    put_beat(run, 0, ended=True)
    assert run.status.state == "failed"


def test_hosts_that_are_blamed_and_avoided(run: Run, slurm: Fake) -> None:
    run.submitted(7, 8)
    for attempt in range(2):
        run.attempt(verdict("hang"), job=7)
        BlameLedger.of(run.path).add(attempt, 7, verdict("hang"))
    assert run.status.blamed == {"node2": 2} and run.status.excluded == ("node2",)
    assert "blamed   node2: 2 times, and avoided" in as_lines(run.status)


def test_progress_is_told_from_metrics_and_the_log(run: Run, slurm: Fake) -> None:
    run.attempt(verdict("signal"))
    line = {"images_per_s": 100.0, "step_s": 0.5, "data_wait_s": 0.1, "attempt": 0, "world_size": 4}
    lines = [json.dumps({"step": step, **line}) for step in range(1, 11)]
    (run.path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 10, "eval": "val"}', '{"torn']))
    log = run.directory.attempt(0) / "rank-0.log"
    log.write_text("18:00:00 step 7/1,234, 0:00 left  epoch 0\n")
    checkpoint = run.directory.checkpoints / "step-00000008"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").touch()
    os.utime(checkpoint / "manifest.json", (time.time() - 100,) * 2)
    found = run.status
    assert (found.step, found.total_steps) == (10, 1234)
    assert (found.images_per_s, found.data_wait) == pytest.approx((100.0, 0.2))
    assert found.eta_s == 612.0 and found.checkpoint is not None and found.checkpoint.step == 8
    assert 99 < found.checkpoint.age_s < 130
    text = "\n".join(as_lines(found))
    assert "10 of 1,234, 100 images/s, data wait 20%, 10:12 left" in text and "step 8, 1:4" in text


def test_json_has_it_all_and_the_exit_code_is_crons(run: Run, slurm: Fake) -> None:
    run.submitted(7).attempt(verdict("stop file"))
    done = vitstream("status", run.path, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 3 and told["state"] == "stopped"
    assert told["verdict"]["cause"] == "stop file" and told["jobs"] == []
