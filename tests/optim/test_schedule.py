"""Learning rates in closed form."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Schedule
from pipeline.optim.schedule import learning_rate

pytestmark = pytest.mark.fast
NAMES = st.sampled_from(["linear", "cosine", "constant"])


def rate(step: int, name: str = "linear", warmup: int = 10, end: float = 0.0, total: int = 110) -> float:
    return learning_rate(Schedule(name=name, warmup_steps=warmup, end_lr=end), 1.0, step, total)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(name: str) -> None:
    assert [rate(step, name) for step in (1, 2, 5, 10)] == pytest.approx([0.1, 0.2, 0.5, 1.0])


def test_closed_forms_after_it() -> None:
    assert [rate(step, "linear", end=0.2) for step in (35, 60, 110)] == pytest.approx([0.8, 0.6, 0.2])
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * t)) / 2 for t in (0.25, 0.5, 1.0)]
    assert [rate(step, "cosine", end=0.2) for step in (35, 60, 110)] == pytest.approx(expected)
    assert [rate(step, "constant", end=0.2) for step in (11, 60, 110)] == [1.0, 1.0, 1.0]


def test_the_papers_h14_schedule() -> None:
    schedule = Schedule(name="linear", warmup_steps=10_000, end_lr=1e-5)
    total = 303_000_000 * 14 // 4_096
    assert learning_rate(schedule, 3e-4, 5_000, total) == pytest.approx(1.5e-4)
    assert learning_rate(schedule, 3e-4, 10_000, total) == 3e-4
    assert learning_rate(schedule, 3e-4, (total + 10_000) // 2, total) == pytest.approx((3e-4 + 1e-5) / 2, rel=1e-4)
    assert learning_rate(schedule, 3e-4, total, total) == pytest.approx(1e-5)


@settings(max_examples=200, deadline=None)
@given(name=NAMES, warmup=st.integers(0, 300), end=st.floats(0, 1), total=st.integers(1, 500))
def test_no_jumps_and_nothing_outside_peak_and_end(name: str, warmup: int, end: float, total: int) -> None:
    rates = [rate(step, name, warmup, end, total) for step in range(1, total + 1)]
    assert all(0 < r <= 1 + 1e-12 or (r == pytest.approx(end) == 0) for r in rates)
    after = rates[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))
    if name != "constant" and total > warmup:
        assert rates[-1] == pytest.approx(end, abs=1e-12)
    steepest = max(1 / max(1, warmup), math.pi / 2 / max(1, total - warmup))
    assert all(abs(b - a) <= steepest + 1e-9 for a, b in pairwise(rates))


def test_without_warm_up_the_first_step_is_next_to_the_peak() -> None:
    assert rate(1, "linear", warmup=0, total=100) == pytest.approx(0.99)
    assert rate(1, "constant", warmup=0, total=100) == 1.0
    assert rate(1, "linear", warmup=0, total=1) == 0.0


def test_a_run_shorter_than_its_warm_up_never_reaches_the_peak() -> None:
    assert [rate(step, warmup=10, total=4) for step in (1, 4)] == pytest.approx([0.1, 0.4])
