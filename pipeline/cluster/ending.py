"""What makes a job have its ranks save and end: a signal to its batch shell, or its time. Torch-free."""

import signal
from types import FrameType
from typing import Final

from pipeline.cluster.allocation import Allocation
from pipeline.cluster.judge import Asking

_ASK_S: Final = 30.0  # between two questions to the controller for the time that is left


class Ending:
    """Whether the job is to end, and why."""

    def __init__(self, here: Allocation, lead_s: float) -> None:
        """`lead_s`: how long before the job's time limit the ranks are to begin."""
        self._here, self._lead_s = here, lead_s
        self.asked: Asking | None = None  # the first counts
        self._next_question = 0.0

    def listen(self) -> None:
        """From here on these signals end no process, but the run: with everything saved."""
        for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._hear)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        self.asked = self.asked or ("USR1" if signum == signal.SIGUSR1 else "TERM")

    def mind_the_time(self, now: float) -> None:
        """SLURM may warn late, or not at all; and an administrator may change a job's limit.

        Args:
            now: of a monotonic clock, in seconds.
        """
        if self.asked or now < self._next_question:
            return
        left, self._next_question = self._here.time_left_s(), now + _ASK_S
        if left is None:
            return
        if left < self._lead_s:
            self.asked = self.asked or "time limit"
        elif left < self._lead_s + _ASK_S:
            self._next_question = now + 1.0
