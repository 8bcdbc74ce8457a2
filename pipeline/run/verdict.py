"""verdict.json: why an attempt ended. Exit codes do not survive srun; this file does. Torch-free.

Written by the rank that knows, else by its launcher, else by the next attempt; the first to write is right.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.dataset.files import write_json

Cause = Literal[
    "finished", "signal", "time limit", "out of memory", "exception", "hang", "node lost", "data", "killed", "usage"
]


@dataclass(frozen=True)
class Verdict:
    cause: Cause
    rank: int | None
    host: str | None
    phase: str  # setup, step, evaluate, save
    step: int | None  # optimizer steps done
    resumable: bool
    message: str = ""

    def write(self, attempt: Path) -> bool:
        """Writes attempts/NNN/verdict.json unless one is there. Returns whether it did."""
        path = attempt / "verdict.json"
        mine = attempt / f".verdict-{os.getpid()}.json"
        write_json(mine, asdict(self))
        try:
            os.link(mine, path)  # unlike a rename, fails where somebody was first
            return True
        except FileExistsError:
            return False
        finally:
            mine.unlink()


def read_verdict(attempt: Path) -> Verdict | None:
    """The attempt's verdict, or None where nobody lived to write one."""
    try:
        return Verdict(**json.loads((attempt / "verdict.json").read_bytes()))
    except FileNotFoundError:
        return None
