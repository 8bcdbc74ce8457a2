"""What squeue and scontrol print, of several versions, as we understand it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster import queue
from pipeline.cluster.queue import parse_addresses, parse_details, parse_jobs, parse_left, parse_time
from pipeline.cluster.states import parse_state

pytestmark = pytest.mark.fast
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "PENDING,REQUEUED", "PENDING+REQUEUE_HOLD", "PD")
RUNNING = ("RUNNING", "CONFIGURING", "RUNNING,SIGNALING", '["RUNNING"]', "SUSPENDED", "STAGE_OUT", "R", "NEW_IN_99")
ENDED = (
    *("COMPLETED", "CANCELLED", "CANCELLED by 0", "CANCELLED+", "COMPLETING,CANCELLED", "COMPLETING", "FAILED"),
    *("TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "REVOKED", "CD", "OOM"),
)
# Of 22.05.8, shortened where the dots are.
DETAILS = (
    "JobId=7 JobName=vitstream-x-0123abcd UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 "
    "Account=(null) QOS=(null) JobState=NODE_FAIL Reason=NodeDown Dependency=(null) Requeue=0 Restarts=2 BatchFlag=1 "
    "Reboot=0 ExitCode=0:15 RunTime=00:00:01 TimeLimit=00:10:00 ... Partition=main AllocNode:Sid=localhost:23790 "
    "ReqNodeList=(null) ExcNodeList=n[1-2] NodeList=node[1-2] BatchHost=node1 NumNodes=2 ... "
    "Command=/runs/a JobState=COMPLETED/train.sbatch WorkDir=/runs StdErr=/runs/JobState=RUNNING\n"
)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [(WAITING, "waiting"), (RUNNING, "running"), (ENDED, "ended")],
    ids=("waiting", "running", "ended"),
)
def test_states_of_all_versions_are_of_three_kinds(texts: tuple[str, ...], kind: str) -> None:
    assert {text: parse_state(text).kind for text in texts} == dict.fromkeys(texts, kind)


def test_the_base_state_counts_and_the_flags_are_kept() -> None:
    state = parse_state("COMPLETING,CANCELLED")
    assert (state.base, state.flags) == ("CANCELLED", {"COMPLETING"})
    assert str(parse_state("CANCELLED by 0")) == "CANCELLED" and parse_state("").base == "UNKNOWN"


@given(st.text(max_size=40))
def test_any_text_is_some_state(text: str) -> None:
    assert parse_state(text).kind in ("waiting", "running", "ended")


@given(st.integers(0, 10**8))
def test_times_left_in_each_of_slurms_forms(seconds: int) -> None:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    text = f"{days}-{hour:02d}:{minute:02d}:{second:02d}" if days else f"{hour}:{minute:02d}:{second:02d}"
    if not hours:
        text = f"{minute}:{second:02d}"
    assert parse_left(text) == seconds


@pytest.mark.parametrize("text", ["UNLIMITED", "NOT_SET", "N/A", "", "Partition_Limit", "1", "1-2", "a:bc"])
def test_no_limit_and_an_unknown_one(text: str) -> None:
    assert parse_left(text) is None
    assert parse_left("INVALID") == 0, "it is over, and the job has not ended yet"


def test_a_table_of_squeue() -> None:
    text = (
        "7|RUNNING|None|2026-11-29T18:06:45|9:58|node[1-2]|vitstream-x-0123abcd\n"
        "8|PENDING|Dependency|N/A|1-00:00:00|(null)|vitstream-x-0123abcd\n"
        "9_[1-3]|PENDING|Priority|N/A|10:00||an array\n"
        "10|PENDING|Nodes required for job are DOWN|Unknown|UNLIMITED||a name | with\tall\n"
        "slurm_load_jobs error: whatever\n"
    )
    first, second, third = parse_jobs(text)
    assert (first.id, first.state.base, first.left_s, first.nodes, first.reason) == (7, "RUNNING", 598, "node[1-2]", "")
    assert first.start == time.mktime((2026, 11, 29, 18, 6, 45, 0, 0, -1))
    assert (second.reason, second.start, second.left_s, second.nodes) == ("Dependency", None, 86_400, "")
    assert (third.id, third.name, third.left_s) == (10, "a name | with\tall", None)
    assert first.is_running and second.is_waiting and str(second) == "job 8 (PENDING)"


@given(st.text(max_size=200))
def test_no_output_of_squeue_is_too_odd(text: str) -> None:
    assert all(job.id >= 0 for job in parse_jobs(text))


def test_a_job_that_ended_as_scontrol_shows_it() -> None:
    found = parse_details(DETAILS)
    assert found is not None
    assert (found.id, found.state.base, found.reason, found.restarts) == (7, "NODE_FAIL", "NodeDown", 2)
    assert (found.exit_code, found.nodes, found.excluded) == ("0:15", "node[1-2]", "n[1-2]")
    assert parse_details("") is None and parse_details("JobId=x") is None


def test_a_job_that_has_to_make_way() -> None:
    line = "JobId=7 JobName=a JobState=RUNNING Reason=None PreemptEligibleTime=2026-11-29T20:24:58 PreemptTime={}"
    told, free, unsaid = (parse_details(line.format(text)) for text in ("2026-11-29T20:25:00", "None", ""))
    assert told and told.preempted and free and not free.preempted and unsaid and not unsaid.preempted


def test_addresses_of_nodes() -> None:
    text = (
        "NodeName=node1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 NodeAddr=10.0.0.1 NodeHostName=node1 Port=21001\n"
        "NodeName=node2 CoresPerSocket=1  NodeAddr=node2.cluster NodeHostName=node2 State=DOWN\n"
    )
    assert parse_addresses(text) == {"node1": "10.0.0.1", "node2": "node2.cluster"}


@pytest.mark.parametrize("text", ["N/A", "Unknown", "", "2026-13-01T00:00:00", "NONE"])
def test_a_start_that_nobody_knows(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize("nodes", ["--help", "a;id", "a b", "$(id)", "a\nb"])
def test_a_host_list_is_no_option(nodes: str) -> None:
    with pytest.raises(queue.NoAnswer, match="no list of hosts"):
        queue.hostnames(nodes)


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not queue.is_here()
    with pytest.raises(queue.NoAnswer, match="SLURM is not on this machine"):
        queue.jobs_named("x")


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(queue, "_PATIENCE_S", 0.2)
    with pytest.raises(queue.NoAnswer, match="no answer within"):
        queue.jobs_named("x")
