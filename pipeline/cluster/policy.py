"""What comes after an attempt: another one here, the next job of the chain, or the end of it. Pure.

    finished, usage, stop file, cancelled     the chain ends: it is done, or somebody has to do something
    signal, time limit, preempted             the next job of the chain goes on
    node lost, a host that failed twice       the next job of the chain goes on, with other hosts
    everything else                           another attempt, on the same hosts

unless too many attempts were made, or too many failed in a row without a new checkpoint: then nothing goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.run.verdict import Verdict

Action = Literal["attempt", "hand over", "end the chain"]


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended."""

    number: int
    job: int | None  # in which it ran
    verdict: Verdict
    progressed: bool  # published a checkpoint that was not there before

    @property
    def failed(self) -> bool:
        """Whether it broke, instead of being asked to end or being done."""
        return not self.verdict.is_of_a_stop and self.verdict.cause != "finished"


@dataclass(frozen=True)
class Next:
    action: Action
    exit_code: int = 0
    why: str = ""


@dataclass(frozen=True)
class Policy:
    attempts: int  # at most, of one submission
    without_progress: int  # failed attempts in a row, at most

    def after(self, history: Sequence[Ended], job: int | None, shunned: Sequence[str] = ()) -> Next:
        """What a job does next, after all attempts of its submission, in order.

        Args:
            job: which asks.
            shunned: hosts of this job that have failed twice.
        """
        if not history:
            return Next("attempt")
        last = history[-1]
        verdict = last.verdict
        if verdict.cause == "finished":
            return Next("end the chain", 0, "finished")
        if verdict.cause == "usage":
            return Next("end the chain", 2, verdict.message)
        if verdict.cause in ("stop file", "cancelled"):
            return Next("end the chain", 3, verdict.message)  # whoever wants it to go on submits it again
        if last.failed and not verdict.resumable:
            return Next("end the chain", 1, f"{verdict.message}; starting again would not help")
        if last.failed and (vain := self.in_vain(history)) >= self.without_progress:
            return Next("end the chain", 1, f"{vain} attempts in a row made no new checkpoint: {verdict.message}")
        if len(history) >= self.attempts:
            return Next("end the chain", 1, f"all {self.attempts} attempts are used up: {verdict.message}")
        if shunned:
            return Next("hand over", 1, f"{', '.join(shunned)} failed twice: the next job does without")
        if last.job != job:
            return Next("attempt")
        if verdict.is_of_a_stop:
            return Next("hand over", 3, verdict.message)
        if verdict.cause == "node lost":
            return Next("hand over", 1, verdict.message)
        return Next("attempt")

    @staticmethod
    def in_vain(history: Sequence[Ended]) -> int:
        """How many of the last attempts failed without a new checkpoint; those that were asked to end do not count."""
        count = 0
        for ended in reversed(history):
            if ended.progressed:
                break
            count += ended.failed
        return count
