"""RUN/: where everything of a run lies, who may write there, and its attempts. Torch-free; a RUN folder may be moved.

RUN/lock is locked by byte: byte 0 by whoever owns the run (the launcher, or rank 0 under another launcher), byte 1
by rank 0. POSIX locks vanish with the process that holds them and are not inherited, so a killed run is free at once;
byte 1 makes a new owner wait for a rank 0 that is still on its way out.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json
from pipeline.run.published_file import PublishedFile
from pipeline.run.stop_file import StopFile

_OWNER, _RANK_0 = 0, 1
_PATIENCE_S = 10.0
_OWNER_PATIENCE_S = 2.0  # one that was killed keeps the run until its memory is given back
_LONGEST_NAME = 1000  # bytes
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems have none
NO_LOCKS = "a process, perhaps: this file system has no locks to tell by"
# Closing any descriptor of a locked file drops the process's locks on it: one per file, open as long as we live.
_held: dict[Path, BinaryIO] = {}


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
    def nonfinite(self) -> Path:
        return self.path / "nonfinite.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def sinks(self) -> Path:
        return self.path / "sinks.json"

    @property
    def stop_file(self) -> StopFile:
        return StopFile(self.path / "STOP")

    @property
    def published_file(self) -> PublishedFile:
        return PublishedFile.of(self.path)

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
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"run_dir: cannot write to {self.path} ({reason})") from None

    def own(self, patience_s: float = _OWNER_PATIENCE_S) -> None:
        """Takes the run for this process, for life; waits so long for whoever has it.

        Raises:
            UsageError: another process has it.
        """
        self._lock(_OWNER, patience_s)
        self._lock(_RANK_0, patience_s=_PATIENCE_S)
        with contextlib.suppress(OSError):
            fcntl.lockf(self._lock_file(), fcntl.LOCK_UN, 1, _RANK_0)  # free for our own rank 0

    def owner(self) -> str | None:
        """Who has the run, in words; None where nobody has. It is not taken, not even for a moment."""
        ours = struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _OWNER, 1, 0)  # struct flock of fcntl(2)
        try:
            with (self.path / "lock").open("rb+") as file:
                theirs = fcntl.fcntl(file.fileno(), fcntl.F_GETLK, ours)
                if struct.unpack("@hhqqi", theirs)[0] == fcntl.F_UNLCK:
                    return None
                return file.read(_LONGEST_NAME).decode(errors="replace").strip() or "another process"
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return NO_LOCKS
            raise UsageError(f"run_dir: cannot look into {self.path} ({error.strerror})") from None

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
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.lockf(self._lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    print(f"vitstream: {self.path}: no locks on this file system: make sure that one run uses it")
                    return
                if time.monotonic() >= deadline:
                    who = (self.path / "lock").read_text().strip() or "another process"
                    raise UsageError(f"run_dir: {self.path} is in use by {who}; stop it first") from None
                time.sleep(0.05)

    def _lock_file(self) -> BinaryIO:
        path = (self.path / "lock").resolve()
        if path not in _held:
            _held[path] = path.open("rb+")
        return _held[path]

    def sign(self, host: str) -> None:
        """Writes into the lock file who holds it, for the message that a second run prints."""
        file = self._lock_file()
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {host}".encode())
        file.flush()

    def aside(self, attempt: int) -> Path:
        """Where an attempt that began anew has put what was there before."""
        return self.path / f"before-{attempt:03d}"

    def set_aside(self, attempt: int) -> None:
        """Moves what the run was into RUN/before-ATTEMPT, for a run that begins anew in its place. Rank 0 only."""
        past = [
            self.config,
            self.metrics,
            self.digests,
            self.holes,
            self.nonfinite,
            self.sinks,
            *self.checkpoints.iterdir(),
        ]
        past.append(self.published_file.path)  # last: a start refuses what was set aside by half
        past = [path for path in past if path.exists()]
        aside = self.aside(attempt)
        for path in past:
            target = aside / path.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
