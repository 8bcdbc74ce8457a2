"""Whether this rank was asked to stop: by a signal, or by the file RUN/STOP. Torch-free.

Signals are heard by a thread of their own, whatever the rank is waiting for: the interpreter's own handlers would have
to wait until a collective, or a library, returns to it. What is asked is carried out by the rank itself, which asks all
others at every step (pipeline/agreement.py); but while it is still starting, there is nothing to save, and it ends at
once, wherever it is.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final

from pipeline.dataset.errors import StoppedResumable
from pipeline.launch.environment import STOP_SIGNALS
from pipeline.run.beat import Heart
from pipeline.run.stop_file import StopFile, StopOrder
from pipeline.run.verdict import Cause, Phase

_LOOK_S: Final = 2.0  # between two looks for the file


@dataclass(frozen=True)
class Asked:
    """Somebody wants the run to stop."""

    cause: Cause
    how: str  # in words
    phase: Phase  # what the rank was doing then
    after_step: int | None = None

    def is_due(self, step: int) -> bool:
        """Once so many steps are done."""
        return self.after_step is None or self.after_step <= step

    def stopped(self, done: str) -> StoppedResumable:
        """What ends this attempt, once so much is done."""
        return StoppedResumable(f"stopped {self.how} {done}; the same command resumes", self.cause, self.phase)


class StopRequest:
    """Listens from its making on. Of signals the first counts: a second one changes nothing."""

    def __init__(self, heart: Heart | None = None) -> None:
        """`heart`: hears of every phase."""
        self.heart = heart or Heart(0)  # which beats nowhere
        self.phase: Phase = "setup"
        self._signal: Asked | None = None
        self._file: Asked | None = None
        self._leave: Callable[[Asked], object] = lambda asked: None  # nobody has begun anything yet
        self._tell: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        heard, told = os.pipe()
        os.set_blocking(told, False)
        for signum in STOP_SIGNALS:
            signal.signal(signum, _heard_by_the_thread)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        threading.Thread(target=self._hear, args=(heard,), name="vitstream-signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by our launcher until here

    def asked(self, step: int) -> Asked | None:
        """Who wants it to stop, now that so many steps are done; None where nobody does."""
        return next((each for each in (self._signal, self._file) if each and each.is_due(step)), None)

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """What this rank does from now on, with so many steps done, where that is not what it was before.

        With the first that is not "setup", stopping becomes the rank's own task.
        """
        self.heart.enter(phase, step)
        with self._lock:
            self.phase = phase
            self.leave_if_starting()

    def while_starting(self, leave: Callable[[Asked], object]) -> None:
        """What to do before the rank ends while it is starting; it is called in any thread."""
        with self._lock:
            self._leave = leave
            self.leave_if_starting()

    def leave_if_starting(self) -> None:
        """Does not return where this rank was asked to stop, and has nothing to save yet."""
        with self._lock:
            if self.phase == "setup" and (asked := self.asked(-1)):
                try:
                    self._leave(asked)
                finally:
                    os._exit(StoppedResumable.exit_code)

    def tell_others_by(self, tell: Callable[[], None]) -> None:
        """What lets other ranks know, who wait for data perhaps; it is called in any thread."""
        self._tell = tell

    def watch(self, file: StopFile) -> None:
        """Looks for the file from now on, in a thread: a slow file system holds nothing up. For rank 0."""
        threading.Thread(target=self._look, args=(file,), name="vitstream-stop-file", daemon=True).start()

    def _hear(self, pipe: int) -> None:
        while numbers := os.read(pipe, 64):
            for signum in numbers:
                if signum in STOP_SIGNALS and self._signal is None:
                    with self._lock:
                        self._signal = Asked("signal", f"on {signal.Signals(signum).name}", self.phase)
                        self.leave_if_starting()
                    self._tell()

    def _look(self, file: StopFile) -> None:
        while self._file is None or self._file.after_step is not None:  # which may be moved, or withdrawn
            order = file.read()
            with self._lock:
                self._file = self._asked_by(order) if order else None
                self.leave_if_starting()
            if order and order.after_step is None:
                self._tell()
            time.sleep(_LOOK_S)

    def _asked_by(self, order: StopOrder) -> Asked:
        why = f" ({order.reason})" if order.reason else ""
        return Asked("stop file", f"by the file STOP{why}", self.phase, order.after_step)


def _heard_by_the_thread(signum: int, frame: FrameType | None) -> None:
    """What Python does with the signal when it comes to it: by then it has been written to the pipe."""
