"""RUN/blame.jsonl: which hosts have failed a run, and the evidence. Torch-free.

A host is blamed for what hosts do: it is lost, a process of it is killed from outside, or hangs. An exception is the
program's, memory that runs out the configuration's: no other host would do better.
"""

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipeline.dataset.files import read_regular
from pipeline.run.verdict import Cause, Phase, Verdict

OF_A_HOST: Final = ("node lost", "hang", "killed")
_TWICE: Final = 2  # failures after which a host is not used again


@dataclass(frozen=True)
class Blame:
    """One failure that is laid at a host's door."""

    time: float  # seconds since 1970
    attempt: int
    job: int | None
    host: str
    rank: int | None
    cause: Cause
    phase: Phase
    step: int | None
    evidence: str  # the verdict's words


@dataclass(frozen=True)
class BlameLedger:
    path: Path

    @classmethod
    def of(cls, run: Path) -> "BlameLedger":
        return cls(run / "blame.jsonl")

    def add(self, attempt: int, job: int | None, verdict: Verdict) -> bool:
        """Writes a line where the verdict blames a host, once per attempt. Returns whether it does.

        Raises OSError.
        """
        if verdict.cause not in OF_A_HOST or verdict.host is None:
            return False
        if any(entry.attempt == attempt for entry in self.read()):
            return True
        entry = Blame(
            time.time(),
            attempt,
            job,
            verdict.host,
            verdict.rank,
            verdict.cause,
            verdict.phase,
            verdict.step,
            verdict.message,
        )
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return True

    def read(self) -> list[Blame]:
        """In the order of writing. A line that cannot be read is passed over: a torn last one, say."""
        try:
            lines = read_regular(self.path).splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                entry = Blame(**json.loads(line))
            except (ValueError, TypeError):
                continue
            if isinstance(entry.host, str):
                found.append(entry)
        return found

    def hosts_to_exclude(self) -> list[str]:
        """Those that have failed twice, sorted."""
        counts = Counter(host for entry in self.read() for host in entry.host.split(","))
        return sorted(host for host, count in counts.items() if count >= _TWICE)
