"""Learning rates in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Schedule
from pipeline.optim.schedule import learning_rate, schedule_notes

pytestmark = pytest.mark.fast
NAMES = st.sampled_from(["linear", "cosine", "constant", "rsqrt"])


def rate(step: int, name: str = "linear", warmup: int = 10, end: float = 0.0, total: int = 110) -> float:
    return learning_rate(Schedule(name=name, warmup_steps=warmup, end_lr=end), 1.0, step, total)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "rsqrt"])
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
    if name in ("linear", "cosine") and total > warmup:
        assert rates[-1] == pytest.approx(end, abs=1e-12)
    steepest = max(1 / max(1, warmup), math.pi / 2 / max(1, total - warmup), 0.5 / 10_000)
    assert all(abs(b - a) <= steepest + 1e-9 for a, b in pairwise(rates))


def test_without_warm_up_the_first_step_is_next_to_the_peak() -> None:
    assert rate(1, "linear", warmup=0, total=100) == pytest.approx(0.99)
    assert rate(1, "constant", warmup=0, total=100) == 1.0
    assert rate(1, "linear", warmup=0, total=1) == 0.0


def test_a_run_shorter_than_its_warm_up_never_reaches_the_peak() -> None:
    assert [rate(step, warmup=10, total=4) for step in (1, 4)] == pytest.approx([0.1, 0.4])


def big_vision(schedule: Schedule, peak: float, total: int) -> np.ndarray:
    """Every step's rate as one array, after the formulas of big_vision's utils.py, `create_learning_rate_schedule`."""
    step = np.arange(1, total + 1, dtype=np.float64)
    warmup = schedule.warmup_steps
    progress = np.clip((step - warmup) / max(1, total - warmup), 0, 1)
    end = schedule.end_lr / peak
    rates = {
        "linear": end + (1 - end) * (1 - progress),
        "cosine": end + (1 - end) * (1 + np.cos(np.pi * progress)) / 2,
        "constant": np.ones_like(step),
        "rsqrt": np.where(step >= warmup, 1 / np.sqrt(1 + np.maximum(0, step - warmup) / schedule.timescale), 1),
    }[schedule.name]
    if warmup:
        rates = rates * np.minimum(1, step / warmup)
    if schedule.cooldown_steps:
        rates = rates * np.minimum(1, (total - step) / schedule.cooldown_steps)
    return peak * rates


@settings(max_examples=300, deadline=None)
@given(
    name=NAMES,
    warmup=st.integers(0, 60),
    timescale=st.integers(1, 200),
    cooldown=st.integers(0, 80),
    end=st.floats(0, 0.01),
    total=st.integers(1, 150),
)
def test_equal_to_numpy(name: str, warmup: int, timescale: int, cooldown: int, end: float, total: int) -> None:
    """A cool-down of theirs ends at 0. Warming up, linear and cosine are at their peak in both."""
    cools = name in ("constant", "rsqrt")
    schedule = Schedule(
        name=name,
        warmup_steps=warmup,
        timescale=timescale,
        cooldown_steps=cooldown if cools else 0,
        end_lr=0.0 if cools else end,
    )
    ours = [learning_rate(schedule, 0.02, step, total) for step in range(1, total + 1)]
    np.testing.assert_allclose(ours, big_vision(schedule, 0.02, total), rtol=1e-12, atol=1e-17)


def test_the_schedule_of_vit_g() -> None:
    """arXiv 2106.04560: 10k of warm-up, a timescale of 10k, 50k of cool-down, 1M steps, peak 8e-4."""
    schedule = Schedule(name="rsqrt", warmup_steps=10_000, timescale=10_000, cooldown_steps=50_000)
    at = {
        step: learning_rate(schedule, 8e-4, step, 1_000_000) for step in (10_000, 40_000, 950_000, 975_000, 1_000_000)
    }
    assert at[10_000] == 8e-4 and at[40_000] == pytest.approx(4e-4)
    assert at[950_000] == pytest.approx(8e-4 / math.sqrt(95)) and at[1_000_000] == 0
    assert at[975_000] == pytest.approx(8e-4 / math.sqrt(97.5) / 2)
    longer = learning_rate(schedule, 8e-4, 940_000, 2_000_000)
    assert longer == learning_rate(schedule, 8e-4, 940_000, 1_000_000), "a longer run repeats only its cool-down"


def test_a_warm_up_or_cool_down_that_does_not_fit_the_run_is_said() -> None:
    fits = Schedule(name="rsqrt", warmup_steps=60, cooldown_steps=40)
    assert schedule_notes(fits, 100) == []
    assert "cools down before it is warm" in schedule_notes(fits, 99)[0]
    assert "60 are more than the run's 59 steps" in schedule_notes(fits, 59)[0]


def test_a_cool_down_ends_at_end_lr_and_never_goes_up() -> None:
    schedule = Schedule(name="constant", cooldown_steps=10, end_lr=0.5)
    assert [learning_rate(schedule, 1.0, s, 100) for s in (90, 95, 100)] == pytest.approx([1.0, 0.75, 0.5])
    low = Schedule(name="rsqrt", timescale=1, cooldown_steps=10, end_lr=0.5)
    rates = [learning_rate(low, 1.0, s, 100) for s in range(85, 101)]
    assert all(b <= a for a, b in pairwise(rates))
    with pytest.raises(ValueError, match="linear comes down to end_lr by itself"):
        Schedule(name="linear", cooldown_steps=3)
