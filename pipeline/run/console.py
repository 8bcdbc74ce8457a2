"""What the operator sees: rank 0 speaks, one progress line while training, a line for each event."""

import contextlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TextIO


class Console:
    """On a terminal the progress line is rewritten in place; elsewhere, and in the log file, each is a line."""

    def __init__(self, speaks: bool, log: Path | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._speaks = speaks
        self._live = speaks and self._stream.isatty()
        self._log = log.open("a", buffering=1) if speaks and log else None
        if self._log and _same_file(self._log, self._stream):  # srun writes our output there: once is enough
            self._log = None
        self._open = False  # a progress line stands at the cursor
        self._lock = threading.Lock()  # a checkpoint is published beside training, and speaks too

    def say(self, message: str) -> None:
        """An event: a line that stays."""
        if not self._speaks:
            return
        with self._lock:
            line = self._record(message)
            self._print(f"\n{line}\n" if self._open else f"{line}\n")
            self._open = False

    def progress(self, message: str) -> None:
        """Where the run is: the next call replaces it."""
        if not self._live:
            self.say(message)
            return
        with self._lock:
            self._record(message)
            width = shutil.get_terminal_size().columns - 1  # a wrapped line could not be rewritten
            self._print(f"\r\033[K{message[:width]}")
            self._open = True

    def _record(self, message: str) -> str:
        line = f"{time.strftime('%H:%M:%S')} {message}"
        if self._log:
            with contextlib.suppress(OSError):  # a full disk: the line has been on the terminal
                print(line, file=self._log)
        return line

    def _print(self, text: str) -> None:
        """A terminal that went away, or a pipe that was closed, is no reason to stop training."""
        try:
            print(text, end="", file=self._stream, flush=True)
        except OSError:  # what Python's own documentation does about SIGPIPE: what follows goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _same_file(one: TextIO, other: TextIO) -> bool:
    try:
        return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except OSError:  # a stream that is no file
        return False


def eta(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"
