"""Where a process stands that does not answer: asked from outside, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.run.stacks import kernel_state, stacks_file
from tests.runs import CHECKOUT

BUSY = """
import sys, threading, time
from pathlib import Path
from pipeline.run.stacks import dump_on_request
dump_on_request(Path(sys.argv[1]), 2)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
sum(range(10**12))  # holds the interpreter
"""


def until(true, patience_s: float = 20.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def busy(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_it_tells_while_something_holds_the_interpreter(busy, tmp_path):
    for _ in range(2):
        busy.send_signal(signal.SIGUSR2)
        time.sleep(0.2)
    file = stacks_file(tmp_path, 2)
    until(lambda: file.read_text().count("most recent call first") == 4)
    assert file.read_text().count("in <module>") == 2, "both threads, twice"
    assert busy.poll() is None


def test_the_kernel_tells_of_one_that_is_stopped(busy):
    psutil.Process(busy.pid).suspend()
    until(lambda: "T (stopped)" in kernel_state(busy.pid))
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline.run.stacks", str(busy.pid), "no", "4194999"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = asked.stdout
    assert f"process {busy.pid}\n  Name: python" in said and said.count("  thread ") == 2
    assert "no: no process id" in said and "process 4194999: there is none" in said
    assert said.index(f"thread {busy.pid} ") < said.rindex("  thread "), "the main thread is the first"


@pytest.mark.fast
def test_the_kernel_tells_of_ourselves():
    said = kernel_state(os.getpid())
    assert f"thread {os.getpid()}" in said and "State: " in said


def test_without_a_folder_it_tells_stderr():
    code = BUSY.replace("Path(sys.argv[1])", "None").replace("sum(range(10**12))", "time.sleep(1)")
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "most recent call first" in err
