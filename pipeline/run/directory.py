"""RUN/: where everything of a run lies, who may write there, and its attempts. Torch-free; a RUN folder may be moved.

RUN/lock is locked by byte: byte 0 by whoever owns the run (the launcher, or rank 0 under another launcher), byte 1
by rank 0. POSIX locks vanish with the process that holds them and are not inherited, so a killed run is free at once;
byte 1 makes a new owner wait for a rank 0 that is still on its way out.
"""

import fcntl
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json

_OWNER, _RANK_0 = 0, 1
_PATIENCE_S = 10.0
_held: list[BinaryIO] = []  # closing a locked file unlocks it: these stay open as long as the process lives


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def digests(self) -> Path:
        return self.path / "digest.jsonl"

    @property
    def holes(self) -> Path:
        return self.path / "holes.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def attempt(self, number: int) -> Path:
        return self.path / "attempts" / f"{number:03d}"

    def attempts(self) -> list[int]:
        """Numbers of all attempts so far, ascending."""
        folder = self.path / "attempts"
        if not folder.is_dir():
            return []
        return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch(r"\d{3,}", p.name))

    def create(self) -> None:
        """Raises UsageError where the folder cannot be made or written."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with (self.path / "lock").open("ab"):
                pass
        except OSError as error:
            raise UsageError(f"run_dir: cannot write to {self.path} ({error.strerror})") from None

    def own(self) -> None:
        """Takes the run for this process, for life.

        Raises:
            UsageError: another process has it.
        """
        self._lock(_OWNER, patience_s=0.0)
        self._lock(_RANK_0, patience_s=_PATIENCE_S)
        fcntl.lockf(_held[-1], fcntl.LOCK_UN, 1, _RANK_0)  # free for our own rank 0

    def own_as_rank_0(self) -> None:
        self._lock(_RANK_0, patience_s=_PATIENCE_S)

    def new_attempt(self) -> int:
        """Makes the next attempt's folder. Owner only."""
        number = max(self.attempts(), default=-1) + 1
        self.attempt(number).mkdir(parents=True)
        return number

    def write_environment(self, facts: dict) -> None:
        write_json(self.path / "env.json", facts)

    def _lock(self, byte: int, patience_s: float) -> None:
        # One descriptor per process: closing any other would drop the locks of all.
        if not _held:
            _held.append((self.path / "lock").open("rb+"))
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.lockf(_held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return
            except OSError:
                if time.monotonic() >= deadline:
                    who = (self.path / "lock").read_text().strip() or "another process"
                    raise UsageError(f"run_dir: {self.path} is in use by {who}; stop it first") from None
                time.sleep(0.05)

    def sign(self, host: str) -> None:
        """Writes into the lock file who holds it, for the message that a second run prints."""
        _held[-1].seek(0)
        _held[-1].truncate()
        _held[-1].write(f"process {os.getpid()} on {host}".encode())
        _held[-1].flush()
