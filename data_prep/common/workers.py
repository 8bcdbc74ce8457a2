"""Worker processes, one task each at a time, that never outlive their parent.

The standard pool of processes hides which task a dead worker had and leaves its children behind when the parent is
killed. What is needed here is little: start, hand out, collect, notice a death.
"""

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, TypeVar

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.processes import die_with

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]

_REPORT_EVERY_S = 0.2
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGALRM)


class WorkerDied(WorkFailed):
    """A worker process ended by itself, or was ended; `how` says how.

    `killed`: by SIGKILL, as the kernel does it. `crashed`: by what it was doing. `timed_out`: by its own alarm.
    """

    def __init__(self, process: BaseProcess) -> None:
        code = process.exitcode or 0
        self.how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self.killed = code == -signal.SIGKILL
        self.timed_out = code == -signal.SIGALRM
        self.crashed = code > 0 or -code in _CRASHES
        hint = "if memory is short, use fewer --workers"
        super().__init__(f"a worker process {self.how}; run the same command again to continue; {hint}")


class Workers:
    """At most `count` processes, started when they are first needed; a context, at whose end they have ended too."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()  # whatever it writes is under a temporary name
        for process in self._processes.values():
            process.join()

    def run(
        self,
        function: Callable[[Task, Advance], Result],
        tasks: Sequence[Task],
        advance: Advance,
        crashed: Callable[[Task, WorkerDied], Result] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        """Runs `function(task, advance)` for every task and yields (task, result) as they come in, in any order.

        `advance` is called here with what the workers' own `advance` were told. Where `crashed` is given, its result
        is that of a task on which a worker crashed, and another worker goes on with the rest.

        Raises:
            OSError: raised by the function, with its errno and file name.
            WorkerDied: a worker was killed, for example for want of memory, or crashed.
        """
        waiting = list(reversed(tasks))
        while len(self._processes) < min(self._count, len(tasks)):
            self._start()
        busy: dict[Connection, Task] = {}
        for connection in list(self._processes)[: len(tasks)]:
            busy[connection] = waiting.pop()
            connection.send((function, busy[connection]))
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                try:
                    kind, value = _receive(connection, self._processes[connection])
                except WorkerDied as death:
                    if crashed is None or death.killed:
                        raise
                    del self._processes[connection]
                    kind, value = "done", crashed(busy[connection], death)
                if kind == "advance":
                    advance(value)
                    continue
                done = busy.pop(connection)
                if waiting and connection not in self._processes:
                    connection = self._start()
                if waiting:
                    busy[connection] = waiting.pop()
                    connection.send((function, busy[connection]))
                yield done, value

    def _start(self) -> Connection:
        # Spawned, not forked: Arrow's threads do not survive a fork.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        resource_tracker.ensure_running()  # its start, which start() would do, unblocks SIGINT
        with _interrupts_blocked():  # inherited: Ctrl-C reaches the whole group, and is the parent's to answer
            process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _receive(connection: Connection, process: BaseProcess) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        raise WorkerDied(process) from None
    if kind == "os error":
        raise OSError(*value)
    if kind == "failed":
        raise WorkFailed(*value)
    if kind == "error":
        raise RuntimeError(f"in a worker process:\n{value}")
    return kind, value


def _serve(connection: Connection, parent: int) -> None:
    """A worker's life."""
    die_with(parent)
    unreported, last = 0, monotonic()

    def advance(count: int) -> None:
        nonlocal unreported, last
        unreported += count
        if monotonic() - last > _REPORT_EVERY_S:
            connection.send(("advance", unreported))
            unreported, last = 0, monotonic()

    while True:
        try:
            function, task = connection.recv()
        except EOFError:
            return
        try:
            result = function(task, advance)
        except OSError as error:
            connection.send(("os error", (error.errno, error.strerror or str(error), error.filename)))
            continue
        except WorkFailed as error:
            connection.send(("failed", (str(error), error.cause, error.resumable)))
            continue
        except Exception:
            connection.send(("error", traceback.format_exc()))
            continue
        connection.send(("advance", unreported))
        unreported = 0
        connection.send(("done", result))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
