"""A log that cannot be written keeps nobody from doing what is to be done."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.cluster.srun import Srun

FULL = Path("/dev/full")
pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here"),
]


def test_what_srun_says_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "seq -f 'srun: error: node%g: task 1: Killed' 5000 >&2"  # more than a pipe holds
    with suppress(OSError), FULL.open("w") as full:  # which cannot be closed in peace either
        monkeypatch.setattr(sys, "stderr", full)
        step = Srun(["sh", "-c", lines], dict(os.environ))
        deadline = time.monotonic() + 30
        while not step.ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        monkeypatch.undo()
    assert step.exit_code == 0 and len(step.words.ends) == 5000


def test_the_supervisors_exit_code_is_its_own(tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        command = [sys.executable, "-P", "-m", "pipeline.cluster.supervise", str(tmp_path / "job.json")]
        assert subprocess.run(command, stdout=full, stderr=full, cwd=tmp_path).returncode == 2
