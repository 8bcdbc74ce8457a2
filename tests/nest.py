"""Python processes for tests, forked from one that has imported what they need: a start takes a tenth of the time.

Most of a short run's processor time is its ranks' imports of torch and DeepSpeed. `Hatched` is a process of its own
nevertheless, with a process id, signals, pipes and an exit code; what it starts as `python -m ...` is forked too: our
launcher's ranks, and their loader's fork server. What a new interpreter would not have, it gives up: open files,
signal handlers, environment. Where the start itself is what is tested, take `subprocess`.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.dataset.processes import die_with

_HERE = Path(__file__).parent.parent


class _Forked(subprocess.Popen):
    """Popen of `[sys.executable, -P or -u, -m or -c, ...]` without a new interpreter."""

    _fork: Callable[..., int]  # (what is wanted, standard files, pass_fds, preexec_fn) -> process id

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, *rest: Any):
        """Popen's own hook, where it starts the program; its arguments are those of Python 3.11 and later."""
        cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *more = rest
        command = list(map(os.fspath, args)) if not isinstance(args, str) else [args]
        if shell or executable or command[0] != sys.executable or _work(command) is None:
            return super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, *rest)
        wanted = {
            "work": _work(command),
            "environment": dict(os.environ if env is None else env),
            "folder": str(Path.cwd() if cwd is None else cwd),
            "new_session": more[-2],
        }
        standard = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = self._fork(wanted, standard, tuple(pass_fds), preexec_fn)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def _work(command: list[str]) -> tuple[str, list[str]] | None:
    """("-m", [MODULE, ARGUMENTS...]) or ("-c", [CODE, ARGUMENTS...]); None where Python is asked for something else."""
    rest = command[1:]
    while rest and rest[0] in ("-P", "-u"):
        rest = rest[1:]
    return (rest[0], rest[1:]) if rest and rest[0] in ("-m", "-c") else None


class Hatched(_Forked):
    """Popen of `[sys.executable, "-m", ...]`, forked from the nest of this process, which it does not outlive."""

    def _fork(self, wanted: dict[str, Any], standard: list[int], pass_fds: tuple[int, ...], preexec_fn: Any) -> int:
        assert not pass_fds and preexec_fn is None, "not over a socket"
        self._nest = _nest()
        return self._nest.begin(wanted, standard)

    def _internal_poll(self, _deadstate: int | None = None, **given: Any) -> int | None:
        return super()._internal_poll(_deadstate, **({"_waitpid": self._nest.waitpid} | given))

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        return self._nest.waitpid(self.pid, wait_flags)


class _Nest:
    """This process's end of it."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        command = [sys.executable, "-m", "tests.nest", str(theirs.fileno())]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # what has threads cannot fork
        with theirs:
            self.process = subprocess.Popen(command, cwd=_HERE, env=environment, pass_fds=[theirs.fileno()])

    def begin(self, wanted: dict[str, Any], standard: list[int]) -> int:
        return self._ask({"begin": wanted}, standard)

    def waitpid(self, pid: int, flags: int) -> tuple[int, int]:
        """As os.waitpid, which only the nest can call."""
        while (status := self._ask({"wait": pid})) is None:
            if flags & os.WNOHANG:
                return 0, 0
            time.sleep(0.005)
        return pid, status

    def _ask(self, question: dict[str, Any], fds: list[int] | None = None) -> Any:
        with self._one_at_a_time:
            socket.send_fds(self._ours, [json.dumps(question).encode()], fds or [])
            answer = self._ours.recv(64)
        assert answer, "the nest has ended"
        return json.loads(answer)


@lru_cache(maxsize=1)
def _nest() -> _Nest:
    return _Nest()


# -- in the nest ---------------------------------------------------------------------------------------------------


def fork_python() -> None:
    """From now on, what this process starts as `python -m ...` is forked from it."""
    subprocess.Popen = _Child


class _Child(_Forked):
    """What takes the place of `subprocess.Popen` in all that has hatched."""

    def _fork(self, wanted: dict[str, Any], standard: list[int], pass_fds: tuple[int, ...], preexec_fn: Any) -> int:
        return os.fork() or _live(wanted, standard, pass_fds, preexec_fn)


def _live(wanted: dict[str, Any], standard: list[int], pass_fds: tuple[int, ...] = (), preexec_fn: Any = None) -> int:
    """A forked process's life; it does not return."""
    code = 1
    try:
        _become(wanted, standard, pass_fds)
        if preexec_fn is not None:
            preexec_fn()
        code = _run(*wanted["work"])
    except BaseException:  # before it was somebody else
        traceback.print_exc()
    finally:
        os._exit(code)


def _become(wanted: dict[str, Any], standard: list[int], pass_fds: tuple[int, ...]) -> None:
    """What a new interpreter would be."""
    if wanted["new_session"]:
        os.setsid()
    for number, fd in enumerate([os.dup(fd) for fd in standard]):
        os.dup2(fd, number)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd > 2 and fd != nothing and fd not in pass_fds:  # objects that hold its number may close it
            with suppress(OSError):
                os.dup2(nothing, fd, inheritable=False)
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    fork_python()


def _run(how: str, words: list[str]) -> int:
    """As `python -m` or `python -c`. Returns the exit code."""
    sys.argv = [words[0] if how == "-m" else how, *words[1:]]
    code = 0
    try:
        if how == "-m":
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            exec(words[0], {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(BaseException):
        threading._shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code


def _serve(control: socket.socket) -> None:
    """Answers until the socket's other end is closed, as it is when whom it serves ends, in whatever way."""
    ours = os.getpid()
    while True:
        message, fds, *_ = socket.recv_fds(control, 2**18, 3)
        if not message:
            return
        question = json.loads(message)
        if wanted := question.get("begin"):
            answer = os.fork() or _live(wanted, list(fds), preexec_fn=lambda: die_with(ours))
        else:
            ended, status = os.waitpid(question["wait"], os.WNOHANG)
            answer = status if ended else None
        for fd in fds:
            os.close(fd)
        control.send(json.dumps(answer).encode())


def import_all() -> None:
    """What ranks, their launcher and their loader's workers need."""
    from pipeline.engine import import_deepspeed

    import_deepspeed()
    import torch._dynamo  # noqa: F401  # as every optimizer does at its first step

    import pipeline.cli
    import pipeline.data.maker
    import pipeline.data.worker
    import pipeline.rank
    import pipeline.train  # noqa: F401

    gc.collect()
    gc.freeze()  # what nobody looks at need not be copied by every process that looks for garbage


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and would be by all
    if not Path("/dev/nvidiactl").exists():  # a process that has met a GPU forks none that can use it
        import_all()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # at once, and what has hatched with it
