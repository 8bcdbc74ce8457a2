"""Where the loader's worker processes are born: a fork server, started while the rank has no threads yet.

A process that forks while another of its threads holds a lock leaves the child waiting for that lock for ever, and a
rank has many threads (gloo, autograd, OpenMP). So workers are forked from a server with none: it imports what they need
once, does nothing else, and dies with its rank, as the workers die with it.

Rank and server speak through a pair of sockets, over which the rank passes open files: nothing here has a name that
could outlive a SIGKILL. (multiprocessing's own fork server listens at a path below TMPDIR.)
"""

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.processes import die_with
from pipeline.launch.environment import SIGNALS, signals_blocked


@dataclass
class Child:
    """A worker, as its rank sees it."""

    pid: int
    connection: Connection

    def exit_code(self, patience_s: float) -> int | None:
        """Negative where a signal killed it; None where it has not ended within `patience_s`, or nobody knows."""
        deadline = time.monotonic() + patience_s
        with suppress(OSError):
            while (answer := _server().ask(f"end {self.pid}")) == "lives" and time.monotonic() < deadline:
                time.sleep(0.002)
            return int(answer) if answer != "lives" else None
        return None


def start() -> None:
    """Starts this rank's fork server. Call it early."""
    _server()


def bear(ring_fd: int) -> Child:
    """A new worker, which begins with `worker.born`. Raises WorkFailed."""
    try:
        ours, theirs = Pipe()
        with theirs:
            return Child(int(_server().ask("bear", theirs.fileno(), ring_fd)), ours)
    except OSError as error:
        raise WorkFailed(f"cannot start a loader worker: {error.strerror}; lower loader.workers") from None


class _Server:
    """The rank's end of it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = f"import sys; sys.path[:] = {sys.path!r}"
        serve = f"from {__name__} import serve; serve({theirs.fileno()}, {os.getpid()})"
        command = [sys.executable, "-c", f"{path}; {serve}"]
        with theirs, signals_blocked():
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def ask(self, question: str, *fds: int) -> str:
        """Its answer. Raises OSError where it has none."""
        socket.send_fds(self._socket, [question.encode()], fds)
        word, _, rest = self._socket.recv(64).decode().partition(" ")
        if word != "ok":
            number = int(rest or errno.EPIPE)
            raise OSError(number, os.strerror(number))
        return rest


_running: _Server | None = None


def _server() -> _Server:
    global _running
    if _running is None or _running.process.poll() is not None:
        _running = _Server()
    return _running


def serve(fd: int, rank_pid: int) -> None:
    """The server's life, until its rank ends."""
    die_with(rank_pid)
    for signum in SIGNALS:  # they reach whole process groups, and are answered by the rank, by saving
        signal.signal(signum, signal.SIG_IGN)
    from pipeline.data import maker, worker  # noqa: F401  # all that workers need

    gc.freeze()  # so that theirs does not write to, and thereby copy, what is shared

    server, control = os.getpid(), socket.socket(fileno=fd)
    while True:
        message, fds, *_ = socket.recv_fds(control, 64, 2)
        if not message:
            return
        try:
            if not fds:
                answer = f"ok {_end(int(message.split()[1]))}"
            elif pid := os.fork():
                answer = f"ok {pid}"
            else:
                die_with(server)
                control.close()
                worker.born(*fds)
        except OSError as error:
            answer = f"failed {error.errno}"
        for each in fds:
            os.close(each)
        control.send(answer.encode())


def _end(pid: int) -> int | str:
    """The exit code of a child, or that it lives."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else "lives"
