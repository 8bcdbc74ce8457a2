"""The ranks' beats, as whoever has started them sees them: on a disk, which may be full."""

import time
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.launch.lookout import Lookout
from pipeline.run.beat import Heart
from pipeline.run.watchdog import LOOK_S, Late

pytestmark = pytest.mark.fast


def lookout(attempt: Path, **limits: float) -> Lookout:
    tree = {"run_dir": "r", "data": {"train": "d"}, "model": {"name": "vit-ti/16"}, "batch_size": 8, "steps": 1}
    return Lookout(attempt, Config.model_validate(tree | {"watchdog": limits}), ranks=1)


def look_for(watched: Lookout, seconds: float) -> Late | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if late := watched.look():
            return late
        time.sleep(0.02)
    return None


def test_a_rank_that_beats_is_not_late_and_one_that_has_stopped_is(tmp_path: Path) -> None:
    watched, heart = lookout(tmp_path, silent_s=3), Heart(0)
    heart.enter("step", 4)
    heart.start(tmp_path)
    assert look_for(watched, 4.5) is None
    heart._write = lambda: None  # from here on the process stands still, as its reader sees it
    late = look_for(watched, 6)
    assert late is not None and late.silent and (late.rank, late.phase, late.step) == (0, "step", 4)
    assert watched.last_beats()[0].step == 4
    heart.close()


def test_on_a_disk_that_takes_nothing_nobody_is_blamed(tmp_path: Path) -> None:
    """A limit on the size of this test's files would do as well; a folder that is gone is simpler, and as deaf."""
    gone = tmp_path / "gone"
    assert look_for(lookout(gone, setup_s=0.5), 3 * LOOK_S) is None
    assert look_for(lookout(tmp_path, setup_s=0.5), 3 * LOOK_S).rank == 0
