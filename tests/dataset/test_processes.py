"""Nobody outlives who started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.runs import CHECKOUT

CHILD = (
    "import os, sys, time; from pipeline.dataset.processes import die_with\n"
    "die_with(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(600)"
)
PARENT = (
    "import os, subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())])\n"
    "time.sleep(600)"
)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # dead, and not yet buried by init


def test_a_child_dies_within_a_second_of_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        child = int(parent.stdout.readline())
        assert alive(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 1.0
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    orphan = subprocess.run(
        [sys.executable, "-c", CHILD, str(gone.pid)], cwd=CHECKOUT, capture_output=True, text=True, timeout=30
    )
    assert orphan.returncode == 1 and orphan.stdout == ""
