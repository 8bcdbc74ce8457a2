"""Where the worker processes of torch's DataLoader are born: multiprocessing's fork server.

Ours (../nursery.py) leaves nothing behind that has a name; but a StreamingDataset knows by torch's DataLoader which
worker it is in, whose processes are multiprocessing's. They die with their rank as ours do. What is left in /dev/shm
when a rank is killed, multiprocessing's resource tracker removes; a socket's folder in TMPDIR stays.
"""

import multiprocessing
import os
import signal
from multiprocessing import forkserver
from typing import Any

from pipeline.dataset.processes import die_with
from pipeline.launch.environment import SIGNALS, signals_blocked

_RANK_PID = "VITSTREAM_RANK_PID"


def start(workers: str) -> Any:
    """Starts this rank's fork server, and returns the multiprocessing context for it. `workers`: what it imports."""
    os.environ[_RANK_PID] = str(os.getpid())
    # Of a rank that ends at once, the resource tracker removes what is left; it need not tell the operator.
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))
    multiprocessing.set_forkserver_preload([__name__, workers])
    with signals_blocked():
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


def adopt(worker: int) -> None:
    """First thing in a worker, whose number is of no interest: it ends with the fork server."""
    die_with(_server_pid or os.getppid())
    _leave_stop_signals_to_the_rank()


def _leave_stop_signals_to_the_rank() -> None:
    for signum in SIGNALS:  # they reach whole process groups, and are answered by saving
        signal.signal(signum, signal.SIG_IGN)


def _is_the_server() -> bool:
    """Whether this import is the preload in a fork server of a rank of ours."""
    return os.environ.get(_RANK_PID) == str(os.getppid()) and multiprocessing.parent_process() is None


_server_pid: int | None = None  # inherited by the workers

if _is_the_server():
    _server_pid = os.getpid()
    die_with(int(os.environ[_RANK_PID]))
    _leave_stop_signals_to_the_rank()
