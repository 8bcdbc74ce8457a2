"""Cycles are collected when it is said, and at no other time; afterwards, whatever happened, as ever."""

import gc
import weakref

import pytest

from pipeline.run.garbage import Garbage

pytestmark = pytest.mark.fast


class Cycle:
    def __init__(self) -> None:
        self.self = self


def test_nothing_is_collected_but_when_it_is_said() -> None:
    with pytest.raises(KeyError), Garbage() as garbage:
        seen = weakref.ref(Cycle())
        for _ in range(20_000):  # objects that make Python collect many times over
            Cycle()
        assert seen() is not None
        garbage.collect()
        assert seen() is None
        raise KeyError
    assert gc.isenabled() and gc.get_freeze_count() == 0
