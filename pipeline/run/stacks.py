"""Where a rank stands that does not answer: what Python and the kernel know about it. Torch-free.

attempts/NNN/stacks/rank-00000.txt      every thread's Python stack, each time the rank gets SIGUSR2
attempts/NNN/kernel/rank-00000.txt      what /proc says of its threads; for a stopped process, it is all there is

python -P -m pipeline.run.stacks PID...     prints the second, on the rank's own machine
"""

import faulthandler
import os
import re
import signal
import sys
from pathlib import Path
from typing import IO, Final

from pipeline.launch.environment import STACKS_SIGNAL

_MOST_THREADS: Final = 64
_STATUS: Final = ("Name", "State", "VmRSS", "Threads", "SigPnd", "ShdPnd", "SigBlk")
_OURS: Final = " in run_rank"  # what every rank's own thread began with
_COLLECTIVE: Final = ("/torch/distributed/", "/deepspeed/comm/")
_file: IO | None = None  # for the signal's handler, which knows only its descriptor


def stacks_file(attempt: Path, rank: int) -> Path:
    return attempt / "stacks" / f"rank-{rank:05d}.txt"


def kernel_file(attempt: Path, rank: int) -> Path:
    return attempt / "kernel" / f"rank-{rank:05d}.txt"


def dump_on_request(attempt: Path | None, rank: int) -> None:
    """From now on SIGUSR2 writes the stacks of all threads, at once, whatever holds the interpreter.

    Without an attempt's folder, or with one that cannot be written, they go to stderr.
    """
    global _file
    target: IO = sys.__stderr__ or sys.stderr
    if attempt is not None:
        try:
            path = stacks_file(attempt, rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.open("ab")
        except OSError:
            pass
    try:
        faulthandler.register(STACKS_SIGNAL, file=target, all_threads=True)
    except (OSError, ValueError):  # stderr has no descriptor here: then the signal is to do nothing
        signal.signal(STACKS_SIGNAL, signal.SIG_IGN)
    _file = target
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [STACKS_SIGNAL])  # blocked by our launcher until here


def is_in_a_collective(attempt: Path, rank: int) -> bool | None:
    """Whether a rank's last dump has its own thread wait for the other ranks; None where there is no such dump."""
    try:
        threads = stacks_file(attempt, rank).read_text(errors="replace").split("\n\n")
    except OSError:
        return None
    ours = next((thread for thread in reversed(threads) if _OURS in thread), None)
    return None if ours is None else any(place in ours for place in _COLLECTIVE)


def kernel_state(pid: int) -> str:
    """What the kernel says of a process and its threads, as far as it may be read: a few lines for each."""
    process = Path("/proc") / str(pid)
    if not process.is_dir():
        return f"process {pid}: there is none\n"
    status = _status(process)
    lines = [f"process {pid}", *(f"  {name}: {status[name]}" for name in _STATUS if name in status)]
    threads = sorted(_folder(process / "task"), key=lambda path: (int(path.name) != pid, int(path.name)))
    for thread in threads[:_MOST_THREADS]:
        lines += _thread(thread)
    if len(threads) > _MOST_THREADS:
        lines.append(f"  and {len(threads) - _MOST_THREADS} more threads")
    return "\n".join(lines) + "\n"


def _thread(thread: Path) -> list[str]:
    status = _status(thread)
    state, name = status.get("State", "gone"), status.get("Name", "?")
    call = _read(thread / "syscall").split()
    doing = f"in {_read(thread / 'wchan').strip() or '?'}"
    if call and call[0].isdigit():
        doing += f", system call {' '.join(call[:4])}"
    stack = [f"      {re.sub(r'^.*> ', '', line)}" for line in _read(thread / "stack").splitlines()]
    return [f"  thread {thread.name} {name}: {state}, {doing}", *stack]


def _status(folder: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(folder / "status").splitlines())
    return {name: " ".join(value.split()) for name, _, value in pairs}


def _folder(path: Path) -> list[Path]:
    try:
        return [each for each in path.iterdir() if each.name.isdigit()]
    except OSError:
        return []


def _read(path: Path) -> str:
    """Nothing of what may not be read (`stack` is the superuser's), or has gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(kernel_state(int(argument)) if argument.isdigit() else f"{argument}: no process id", flush=True)
    os._exit(0)
