"""What SLURM says is understood: who ended, how, and why a job is cancelled."""

import pytest

from pipeline.cluster.words import heard

pytestmark = pytest.mark.fast

KILLED = "srun: error: node2: task 3: Killed"
TERMINATED = "srun: error: node1: tasks 0-1: Terminated"
JOB = "slurmstepd-node1: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-29T18:00:47"


@pytest.mark.parametrize(
    ("line", "ranks", "host", "exit_code", "signal"),
    [
        (KILLED, [3], "node2", None, "SIGKILL"),
        ("srun: error: gpu-a01: tasks 0-1,4: Exited with exit code 1", [0, 1, 4], "gpu-a01", 1, None),
        ("srun: error: node1: task 0: Segmentation fault (core dumped)", [0], "node1", None, "SIGSEGV"),
        ("srun: error: node1: task 0: Bus error", [0], "node1", None, "SIGBUS"),
        ("srun: error: node1: task 0: Aborted", [0], "node1", None, "SIGABRT"),
        ("12: srun: error: node1: task 0: Out Of Memory", [0], "node1", None, "SIGKILL"),
        (TERMINATED, [0, 1], "node1", None, "SIGTERM"),
    ],
)
def test_a_ranks_end(line, ranks, host, exit_code, signal):
    ends = heard([line]).ends
    assert [end.rank for end in ends] == ranks
    assert {(end.host, end.exit_code, end.signal) for end in ends} == {(host, exit_code, signal)}


def test_a_killed_rank_is_blamed_before_those_that_it_took_down():
    lines = ["srun: error: node1: tasks 0-1: Exited with exit code 1", KILLED, TERMINATED]
    assert heard(lines).first_end.rank == 3
    assert heard([TERMINATED, "srun: error: node1: task 2: Exited with exit code 7"]).first_end.signal == "SIGTERM"
    assert heard(["srun: Job step aborted: Waiting up to 5 seconds"]).first_end is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"{JOB} ***", [""]),
        (f"{JOB} DUE TO PREEMPTION ***", ["PREEMPTION"]),
        (f"{JOB} DUE TO TIME LIMIT ***", ["TIME LIMIT"]),
        (f"{JOB} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", ["NODE FAILURE"]),
        ("slurmstepd-node1: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-29T18:00:47 ***", []),  # by srun itself
    ],
)
def test_why_a_job_is_cancelled(line, why):
    assert heard([line]).cancelled == why


def test_lost_nodes_and_memory_and_what_srun_cannot_do():
    words = heard(["srun: error: Node failure on node2", "srun: error: Node failure on n3, n4 is next"])
    assert words.lost == ["node2", "n3"]
    assert heard(["slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0. Some"]).out_of_memory
    assert heard(["slurmstepd: error: Detected 2 oom_kill events in StepId=12.0"]).out_of_memory
    assert heard(["srun: error: Unable to create step for job 4: Invalid"]).errors == [
        "Unable to create step for job 4: Invalid"
    ]
