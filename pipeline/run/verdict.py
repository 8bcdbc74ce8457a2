"""verdict.json: why an attempt ended. Exit codes do not survive srun; this file does. Torch-free.

Written by the rank that knows, else by its launcher, else by the next attempt; the first to write is right. One
exception: a rank that was killed cannot speak, and the others, whose collectives then break, speak of a symptom; the
launcher, who saw the kill, overrules them.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.dataset.files import read_regular, write_json

Cause = Literal[
    "finished",
    "signal",
    "stop file",
    "time limit",
    "preempted",
    "cancelled",
    "out of memory",
    "exception",
    "hang",
    "node lost",
    "data",
    "killed",
    "usage",
]
_STOPS = ("signal", "stop file", "time limit", "preempted", "cancelled")
Phase = Literal["setup", "data", "step", "evaluate", "save"]  # data: waiting for it


@dataclass(frozen=True)
class Verdict:
    cause: Cause
    rank: int | None
    host: str | None
    phase: Phase  # of a run that was stopped: in which it was asked to
    step: int | None  # optimizer steps done; None where that was not known yet
    resumable: bool
    message: str = ""
    evaluate_s: float | None = None  # after the last step, of which metrics.jsonl has no line; None where not known
    save_s: float | None = None

    @classmethod
    def of_finished(cls, step: int, stalls: dict[str, float]) -> "Verdict":
        return cls("finished", None, None, "step", step, resumable=False, message="finished", **stalls)

    @property
    def is_of_a_stop(self) -> bool:
        """Whether the attempt was asked to end, and did so with everything saved."""
        return self.cause in _STOPS

    def write(self, attempt: Path, overrule: bool = False) -> bool:
        """Writes attempts/NNN/verdict.json, unless one is there that it does not overrule. Returns whether it did.

        Raises OSError; what was there before stays.
        """
        path = attempt / "verdict.json"
        mine = attempt / f".verdict-{os.getpid()}-{os.urandom(4).hex()}.json"  # pids are a machine's own
        write_json(mine, asdict(self))
        try:
            if overrule:
                mine.replace(path)
            else:
                os.link(mine, path)  # unlike a rename, fails where somebody was first
            return True
        except FileExistsError:
            return False
        finally:
            mine.unlink(missing_ok=True)


def read_verdict(attempt: Path) -> Verdict | None:
    """The attempt's verdict, or None where nobody lived to write one that can be read."""
    try:
        found = Verdict(**json.loads(read_regular(attempt / "verdict.json")))
    except (OSError, ValueError, TypeError):
        return None
    sound = found.cause in get_args(Cause) and isinstance(found.message, str)
    return found if sound else None


def judge_earlier_attempts(attempts: Iterable[Path]) -> None:
    """Writes the verdict of attempts whose ranks and launcher all died without a word."""
    for attempt in attempts:
        if read_verdict(attempt) is None:
            message = "ended without a word: killed, or lost with its machine"
            Verdict("killed", None, None, "step", None, resumable=True, message=message).write(attempt)
