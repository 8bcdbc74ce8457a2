"""How many jobs, how early the warning, how many hours: each with its source."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.estimate import Estimate, estimate
from pipeline.cluster.forms import seconds_of
from pipeline.run.measured import Measured
from tests.launch.test_length import growing

pytestmark = pytest.mark.fast
HOUR = 3600


def of(measured: Measured = Measured(), limit_s: int = HOUR, total: int | None = 1000, **changes: object) -> Estimate:
    values = {"plan": None, "done": 0, "ranks": 4, "nodes": 2, "has_gpus": True, "asked_chain": None} | changes
    return estimate(total_steps=total, measured=measured, limit_s=limit_s, **values)


def seen(step_s: float, **changes: object) -> Measured:
    return Measured(step=1, attempt=3, world_size=4, step_s=step_s, **changes)


def test_what_was_measured_counts() -> None:
    found = of(seen(36.0), done=500)
    assert (found.steps, found.hours, found.hours_from) == (500, 5.0, "measured in attempt 3")
    assert (found.chain, found.chain_from) == (7, "5 by its hours, and 2 for what may happen")


def test_another_number_of_ranks_says_nothing_about_this_one() -> None:
    found = of(seen(36.0), ranks=8)
    assert found.hours is None and (found.chain, found.chain_from) == (3, "the least")


def test_images_that_grow_count_for_what_they_cost_whether_it_was_measured_or_not() -> None:
    plan = SimpleNamespace(length=growing(), saving=SimpleNamespace(each=0))  # 90 small steps, 10 large ones
    measured, planned = (of(seen(36.0), total=100, plan=plan, ranks=ranks) for ranks in (4, 1))
    assert measured.hours == pytest.approx(1.3)  # 130 small steps
    assert planned.hours == pytest.approx(130 * 10 / 400 / 3600)  # of 10 images, at 400 a second
    assert of(seen(36.0), total=100, done=95, plan=plan, ranks=1).hours == pytest.approx(5 * 10 / 100 / 3600)


@pytest.mark.parametrize(("step_s", "save_s", "lead"), [(1.0, 2.0, 60), (10.0, 20.0, 120), (100.0, 300.0, 1230)])
def test_the_lead_is_three_times_what_was_needed(step_s: float, save_s: float, lead: int) -> None:
    found = of(Measured(longest_step_s=step_s, longest_save_s=save_s))
    assert found.lead_s == lead and "so far" in found.lead_from
    assert of().lead_s == 120


def test_a_chain_has_bounds_and_the_user_has_the_last_word() -> None:
    long = of(seen(3600.0))
    assert long.chain == 50 and "1,002" in long.chain_from and "submit again" in long.chain_from
    assert of(seen(0.01)).chain == 3
    assert of(seen(3600.0), asked_chain=7).chain == 7
    assert of(seen(36.0), limit_s=0).chain == 3, "without a limit one job does it all"


@given(st.integers(0, 10**6), st.floats(0, 1e4), st.integers(1, 10**7), st.integers(0, 10**6))
def test_numbers_stay_within_bounds(total: int, step_s: float, limit_s: int, done: int) -> None:
    found = of(seen(step_s), limit_s, total, done=done)
    assert 3 <= found.chain <= 50 and found.lead_s >= 60 and found.steps == max(0, total - done)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 600),
        ("1:30", 90),
        ("1:00:00", 3600),
        ("1-12", 129_600),
        ("1-0:30", 88_200),
        ("2-1:2:3", 176_523),
        ("0", 0),
    ],
)
def test_time_limits_in_each_of_sbatchs_forms(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
