"""Where the loader's worker processes are born: a fork server, started while the rank has no threads yet.

A process that forks while another of its threads holds a lock leaves the child waiting for that lock for ever, and a
rank has many threads (gloo, autograd, OpenMP). So workers are forked from a server with none: it imports what they need
once, does nothing else, and dies with its rank, as the workers die with it.
"""

import multiprocessing
import os
import signal

from pipeline.dataset.processes import die_with
from pipeline.launch.environment import STOP_SIGNALS

_RANK_PID = "VITSTREAM_RANK_PID"
CONTEXT = "forkserver"


def start() -> None:
    """Starts this rank's fork server, which imports what workers need beside the rank. Call it early, once."""
    os.environ[_RANK_PID] = str(os.getpid())
    # Of a rank that ends at once, the resource tracker removes the semaphores; it need not tell the operator.
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))
    multiprocessing.set_forkserver_preload([__name__, "pipeline.data.worker"])
    from multiprocessing import forkserver

    forkserver.ensure_running()


def adopt() -> None:
    """First thing in a worker: it ends with the fork server."""
    die_with(_server_pid or os.getppid())
    _leave_stop_signals_to_the_rank()


def _leave_stop_signals_to_the_rank() -> None:
    for signum in STOP_SIGNALS:  # they reach whole process groups, and are answered by saving
        signal.signal(signum, signal.SIG_IGN)


def _is_the_server() -> bool:
    """Whether this import is the preload in a fork server of a rank of ours."""
    return os.environ.get(_RANK_PID) == str(os.getppid()) and multiprocessing.parent_process() is None


_server_pid: int | None = None  # inherited by the workers

if _is_the_server():
    _server_pid = os.getpid()
    die_with(int(os.environ[_RANK_PID]))
    _leave_stop_signals_to_the_rank()
