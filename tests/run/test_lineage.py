"""What a checkpoint hands on about its run."""

import random

import pytest

from pipeline.run.lineage import KEPT, Lineage

pytestmark = pytest.mark.fast
CODE = {"version": "0.1.0", "git_commit": "a" * 40}


def noisy(count, mean=2.0):
    draws = random.Random(0)
    return [draws.gauss(mean, 0.1) for _ in range(count)]


def test_the_last_losses_are_kept():
    lineage = Lineage(CODE)
    lineage.add([5.0] * 30)
    lineage.add(noisy(80))
    assert lineage.facts() == {"code": CODE, "losses": [5.0] * (KEPT - 80) + noisy(80)}


@pytest.mark.parametrize(("loss", "jumped"), [(2.05, False), (2.4, False), (3.0, True), (1.0, True)])
def test_a_jump_is_said_once_at_the_first_flush_after_a_resume(loss, jumped):
    lineage = Lineage.after(CODE, CODE, noisy(100))
    assert bool(lineage.add([])) is False
    lineage = Lineage.after(CODE, CODE, noisy(100))
    said = lineage.add([loss, loss])
    assert bool(said) is jumped
    if said:
        assert f"{loss:.4f} in the first 2 steps" in said and "100 before" in said
    assert lineage.add([loss * 9]) is None


def test_no_jump_is_called_without_a_past_to_speak_of():
    assert Lineage(CODE, losses=noisy(100)).add([99.0]) is None, "not resumed"
    assert Lineage.after(CODE, CODE, noisy(5)).add([99.0]) is None, "too few"
    assert Lineage.after(CODE, CODE, [2.0] * 100).add([2.001]) is None, "no spread at all"


def test_other_code_is_said():
    assert Lineage.after(CODE, CODE, []).changed == []
    assert Lineage.after(CODE, {}, []).changed == [], "older checkpoints do not know"
    assert Lineage.after(CODE, {"version": "0.0.9"}, []).changed == [f"code: 0.0.9 -> 0.1.0 ({'a' * 12})"]
