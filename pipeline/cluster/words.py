"""What SLURM says on stderr of a job and its steps, understood. Pure; the forms are those of 22.05 and later.

    srun: error: node2: task 3: Killed                                       a rank's end
    srun: error: node1: tasks 0-1,3: Exited with exit code 1
    srun: error: Node failure on node2                                        a node's
    slurmstepd-node1: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-29T18:00:47 DUE TO PREEMPTION ***
    slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0. ...       memory

srun's exit code says none of this: with --kill-on-bad-exit it is that of the ranks which srun itself has ended.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pipeline.dataset.errors import StoppedResumable

_TASKS: Final = re.compile(r"srun: error: (?P<host>[^\s:]+): tasks? (?P<tasks>[\d,-]+): (?P<end>.+)")
_EXIT: Final = re.compile(r"Exited with exit code (\d+)")
_NODE: Final = re.compile(r"Node failure on (\S+?)[.,]?(?:\s|$)")
_CANCELLED: Final = re.compile(r"\*\*\* JOB \S+ ON \S+ CANCELLED\b(?P<rest>[^*]*)\*\*\*")
_DUE_TO: Final = re.compile(r"DUE TO ([A-Z ]+)")
_OUT_OF_MEMORY: Final = re.compile(r"oom[-_]kill|Out Of Memory|exceeded memory limit", re.IGNORECASE)
_SIGNALS: Final = {  # as strsignal(3) has them
    "Killed": "SIGKILL",
    "Segmentation fault": "SIGSEGV",
    "Bus error": "SIGBUS",
    "Aborted": "SIGABRT",
    "Floating point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
    "Terminated": "SIGTERM",
    "Out Of Memory": "SIGKILL",
}


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended that did not end well."""

    rank: int
    host: str
    exit_code: int | None
    signal: str | None  # its name
    said: str

    @property
    def was_killed(self) -> bool:
        """By a signal that our ranks do not answer: they end on SIGTERM themselves."""
        return self.signal not in (None, "SIGTERM")

    @property
    def broke(self) -> bool:
        """By itself, neither done nor on request."""
        return self.exit_code not in (None, 0, StoppedResumable.exit_code)


@dataclass
class Words:
    """What has been said so far."""

    ends: list[RankEnd] = field(default_factory=list)  # in order
    lost: list[str] = field(default_factory=list)  # nodes
    cancelled: list[str] = field(default_factory=list)  # why: "" for somebody's scancel, PREEMPTION, TIME LIMIT, ...
    out_of_memory: bool = False
    errors: list[str] = field(default_factory=list)  # lines of srun's that are none of these

    def hear(self, line: str) -> None:
        """One line."""
        if match := _TASKS.search(line):
            self.ends += (_end(rank, match["host"], match["end"].strip()) for rank in _numbers(match["tasks"]))
        elif match := _NODE.search(line):
            self.lost.append(match[1])
        elif match := _CANCELLED.search(line):
            self._hear_of_cancelling(match["rest"])
        elif "srun: error: " in line:
            self.errors.append(line.partition("srun: error: ")[2].strip())
        self.out_of_memory = self.out_of_memory or bool(_OUT_OF_MEMORY.search(line))

    def _hear_of_cancelling(self, rest: str) -> None:
        """Of the job: steps are cancelled by srun, too, which says so in the same words."""
        due = _DUE_TO.search(rest)
        self.cancelled.append(due[1].strip() if due else "")

    @property
    def first_end(self) -> RankEnd | None:
        """The rank to blame: one that was killed before those that it took down with it."""
        killed = next((end for end in self.ends if end.was_killed), None)
        return killed or next(iter(self.ends), None)


def heard(lines: Iterable[str]) -> Words:
    """Several lines."""
    words = Words()
    for line in lines:
        words.hear(line)
    return words


def _end(rank: int, host: str, said: str) -> RankEnd:
    code = _EXIT.match(said)
    signal = next((name for form, name in _SIGNALS.items() if said.startswith(form)), None)
    return RankEnd(rank, host, int(code[1]) if code else None, signal, said)


def _numbers(text: str) -> list[int]:
    """0-1,3 as [0, 1, 3]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found += range(int(first), int(last or first) + 1)
    return found
