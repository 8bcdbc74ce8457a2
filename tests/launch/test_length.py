"""How much of a run is left, where its images grow under way."""

import pytest

from pipeline.launch.length import Length, SizedPhase

pytestmark = pytest.mark.fast


def growing() -> Length:
    """90 steps of small images, then 10 of large ones, which take four times as long."""
    small, large = SizedPhase(112, 90, 900, 1, 400.0), SizedPhase(224, 10, 100, 4, 100.0)
    return Length(
        samples=1000,
        epochs=1.0,
        steps=100,
        batch_size=10,
        last_batch=10,
        ranks=1,
        accumulation=1,
        micro_batch=10,
        images_per_s=300.0,
        assumed=False,
        flops=2,
        hours=1.0,
        gpu_hours=1.0,
        phases=(small, large),
    )


@pytest.mark.parametrize(("done", "left"), [(0, 130.0), (50, 80.0), (90, 40.0), (91, 9.0), (100, 0.0), (120, 0.0)])
def test_what_is_left_counts_in_steps_as_long_as_the_last_one(done: int, left: float) -> None:
    assert growing().steps_left(done, 100) == pytest.approx(left)


def test_of_a_run_that_is_longer_since_its_batches_were_smaller() -> None:
    assert growing().steps_left(0, 200) == pytest.approx(260) and growing().steps_left(180, 200) == pytest.approx(80)
    assert [growing().at(done, 200).image_size for done in (0, 180, 181, 300)] == [112, 112, 224, 224]
