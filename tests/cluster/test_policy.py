"""What comes after an attempt, for any history: never a loop without progress, and never an end without a reason."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.policy import Ended, Policy
from pipeline.run.verdict import Cause, Verdict

pytestmark = pytest.mark.fast

POLICY = Policy(attempts=10, without_progress=3)
STOPS = ("signal", "time limit", "preempted")


def ended(cause: Cause, job: int = 1, progressed: bool = False, resumable: bool = True) -> Ended:
    return Ended(0, job, Verdict(cause, 0, "node1", "step", 3, resumable, f"because of {cause}"), progressed)


@pytest.mark.parametrize(
    ("cause", "action", "exit_code"),
    [
        ("finished", "end the chain", 0),
        ("usage", "end the chain", 2),
        ("stop file", "end the chain", 3),
        ("cancelled", "end the chain", 3),
        *((cause, "hand over", 3) for cause in STOPS),
        ("node lost", "hand over", 1),
        *((cause, "attempt", 0) for cause in ("killed", "exception", "out of memory", "hang", "data")),
    ],
)
def test_after_one_attempt(cause, action, exit_code):
    following = POLICY.after([ended(cause)], job=1)
    assert (following.action, following.exit_code) == (action, exit_code)


def test_the_next_job_goes_on():
    for cause in (*STOPS, "node lost", "killed"):
        assert POLICY.after([ended(cause)], job=2).action == "attempt"
    assert POLICY.after([], job=2).action == "attempt"


def test_a_host_that_failed_twice_is_left():
    following = POLICY.after([ended("hang")], job=1, shunned=["node7"])
    assert following.action == "hand over" and "node7" in following.why


def test_it_stops_where_nothing_comes_of_it():
    failed = [ended("exception")] * 3
    assert POLICY.after(failed, job=1).action == "end the chain"
    assert POLICY.after(failed[:2], job=1).action == "attempt"
    assert POLICY.after([ended("exception", progressed=True), *failed[:2]], job=1).action == "attempt"
    assert POLICY.after([*failed[:2], ended("preempted"), failed[0]], job=1).action == "end the chain"
    assert POLICY.after([ended("data", resumable=False)], job=1).action == "end the chain"


causes = st.sampled_from(get_args(Cause))
histories = st.lists(st.builds(ended, causes, st.integers(1, 3), st.booleans()), min_size=1, max_size=12)


@given(histories, st.integers(1, 3))
def test_any_history(history, job):
    following = POLICY.after(history, job)
    assert following.action == "attempt" or following.why
    assert len(history) < POLICY.attempts or following.action != "attempt"
    assert Policy.in_vain(history) < 3 or not history[-1].failed or following.action == "end the chain"
    again = [*history, replace(history[-1], progressed=False)]
    assert Policy.in_vain(again) >= (history[-1].failed)
