"""Who is named for an attempt's end, from what a rank wrote, what SLURM said and what was asked."""

from dataclasses import replace

import pytest

from pipeline.cluster.history import AttemptFacts
from pipeline.cluster.judge import Evidence, judge, judge_silent
from pipeline.cluster.words import Words, heard
from pipeline.run.beat import Beat
from pipeline.run.verdict import Verdict

pytestmark = pytest.mark.fast

LEAD_S = 120
KILLED = "srun: error: node2: task 3: Killed"
STOPPED = Verdict("signal", None, None, "data", 12, True, "stopped on SIGUSR1 after step 12, everything saved")
SYMPTOM = Verdict("exception", 0, "node1", "step", 12, True, "rank 0 on node1: RuntimeError: connection closed by peer")


def beat(rank, phase="step", step=12):
    host = "node1" if rank < 2 else "node2"
    return Beat(rank, host, 100 + rank, phase, step, 7, 0.0, 0.0, False, False, {})


BEATS = {rank: beat(rank) for rank in range(4)}


def evidence(spoken=None, words=None, asked=None, left=3600.0, beats=BEATS, code=1, said=None, preempted=False):
    return Evidence(spoken, words or Words(), beats, asked, left, code, said, preempted, "attempts/000")


@pytest.mark.parametrize("asked", [None, "USR1", "time limit"])
def test_with_a_grace_time_only_the_jobs_record_says_that_it_has_to_make_way(asked):
    assert judge(evidence(STOPPED, asked=asked, left=6.0, preempted=True), LEAD_S).cause == "preempted"


@pytest.mark.parametrize("cause", ["finished", "usage", "stop file", "hang"])
def test_what_only_a_rank_can_know_stands(cause):
    spoken = replace(SYMPTOM, cause=cause)
    assert judge(evidence(spoken, heard([KILLED]), "TERM"), LEAD_S) == spoken


@pytest.mark.parametrize(
    ("line", "asked", "left", "cause"),
    [
        ("", "USR1", 3600, "signal"),
        ("", "USR1", 100, "time limit"),
        ("", "USR1", None, "signal"),
        ("", "time limit", 100, "time limit"),
        ("", None, 3600, "signal"),
        ("*** JOB 7 ON node1 CANCELLED AT 2026-11-29T18:00:47 ***", "TERM", 3600, "cancelled"),
        ("*** JOB 7 ON node1 CANCELLED AT 2026-11-29T18:00:47 DUE TO PREEMPTION ***", "TERM", 3600, "preempted"),
        ("*** JOB 7 ON node1 CANCELLED AT 2026-11-29T18:00:47 DUE TO TIME LIMIT ***", "TERM", 0, "time limit"),
    ],
)
def test_who_asked_to_stop(line, asked, left, cause):
    verdict = judge(evidence(STOPPED, heard([line]), asked, left), LEAD_S)
    assert (verdict.cause, verdict.step, verdict.phase, verdict.resumable) == (cause, 12, "data", True)
    assert verdict.is_of_a_stop and STOPPED.message in verdict.message


def test_a_killed_rank_is_named_before_the_symptom_that_another_wrote():
    verdict = judge(evidence(SYMPTOM, heard(["srun: error: node1: task 0: Exited with exit code 1", KILLED])), LEAD_S)
    assert (verdict.cause, verdict.rank, verdict.host, verdict.phase, verdict.step) == (
        "killed",
        3,
        "node2",
        "step",
        12,
    )
    assert "SIGKILL" in verdict.message
    silent = judge(evidence(None, heard([KILLED]), beats={}), LEAD_S)
    assert (silent.cause, silent.rank, silent.phase, silent.step) == ("killed", 3, "setup", None)


def test_memory_that_ran_out():
    lines = ["slurmstepd-node2: error: Detected 1 oom-kill event(s) in StepId=7.0.", KILLED]
    assert judge(evidence(SYMPTOM, heard(lines)), LEAD_S).cause == "out of memory"


def test_a_node_that_was_lost():
    verdict = judge(evidence(SYMPTOM, heard(["srun: error: Node failure on node2"])), LEAD_S)
    assert (verdict.cause, verdict.host, verdict.rank, verdict.step) == ("node lost", "node2", 2, 12)


def test_what_a_rank_wrote_stands_where_nobody_was_killed():
    words = heard(["srun: error: node1: task 0: Exited with exit code 1", "srun: error: node2: task 3: Terminated"])
    assert judge(evidence(SYMPTOM, words), LEAD_S) == SYMPTOM


@pytest.mark.parametrize(
    "line", [KILLED, "srun: error: node2: task 3: Exited with exit code 7", "srun: error: Node failure on node2"]
)
def test_a_rank_that_starts_and_is_ended_by_srun_does_not_hide_the_one_that_failed(line):
    spoken = replace(STOPPED, phase="setup", step=None, message="stopped on SIGTERM while it was starting")
    words = heard([line, "srun: error: node1: task 0: Exited with exit code 3"])
    verdict = judge(evidence(spoken, words), LEAD_S)
    assert not verdict.is_of_a_stop and verdict.host == "node2"
    assert judge(evidence(spoken, words, asked="TERM"), LEAD_S).is_of_a_stop
    assert judge(evidence(spoken, heard(["srun: error: node1: task 0: Exited with exit code 3"])), LEAD_S) == spoken


def test_a_rank_that_ended_without_a_word_is_named_before_the_symptom_that_another_wrote():
    words = heard(["srun: error: node2: task 3: Exited with exit code 7", "srun: error: node1: task 0: Exited with 1"])
    beats = BEATS | {0: replace(BEATS[0], ended=True)}
    verdict = judge(evidence(SYMPTOM, words, beats=beats), LEAD_S)
    assert (verdict.cause, verdict.rank, verdict.phase, verdict.step) == ("exception", 3, "step", 12)
    spoke = beats | {
        3: replace(BEATS[3], ended=True)
    }  # it wrote a traceback, if no verdict: the first to write is right
    assert judge(evidence(SYMPTOM, words, beats=spoke), LEAD_S) == SYMPTOM


def test_nobody_wrote():
    refused = heard(["srun: error: node1: task 0: Exited with exit code 2"])
    verdict = judge(evidence(None, refused, said="data.train: nowhere"), LEAD_S)
    assert (verdict.cause, verdict.resumable, verdict.message) == ("usage", False, "data.train: nowhere")
    verdict = judge(evidence(None, heard(["srun: error: node2: task 3: Exited with exit code 7"])), LEAD_S)
    assert (verdict.cause, verdict.rank, verdict.host) == ("exception", 3, "node2") and "exit code 7" in verdict.message
    verdict = judge(evidence(None, heard(["srun: error: Unable to create step for job 7: Invalid"])), LEAD_S)
    assert verdict.cause == "exception" and "Unable to create step" in verdict.message
    assert "exit code 9" in judge(evidence(None, code=9), LEAD_S).message
    assert judge(evidence(None, asked="USR1", code=3), LEAD_S).is_of_a_stop


@pytest.mark.parametrize(
    ("state", "cause"),
    [("CANCELLED", "cancelled"), ("PREEMPTED", "preempted"), ("TIMEOUT", "time limit"), (None, "killed")],
)
def test_a_job_that_died_without_a_word(state, cause):
    facts = AttemptFacts(7, 0, ("node1", "node2"), 2, 0.0, None, "000")
    verdict = judge_silent(facts, state, [], BEATS)
    assert (verdict.cause, verdict.step, verdict.resumable) == (cause, 12, True)


def test_a_job_whose_own_host_was_lost():
    facts = AttemptFacts(7, 0, ("node1", "node2"), 2, 0.0, None, "000")
    verdict = judge_silent(facts, "NODE_FAIL", ["node2"], BEATS)
    assert (verdict.cause, verdict.host, verdict.rank) == ("node lost", "node2", 2)
    assert judge_silent(facts, "NODE_FAIL", [], BEATS).host == "node1"
    assert judge_silent(None, None, [], {}).step is None
