"""OUT/.VERB-work, where a verb keeps what it has done until it has done all of it: locked while it is at work. And what
is said when it could not go on.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.names import escape

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of some network file systems


@contextmanager
def work_folder(out: Path, verb: str, shared: bool = False) -> Iterator[Path]:
    """OUT/.VERB-work, made if missing, locked for as long as the block runs: against everyone, or, `shared`, against
    those who want it alone.

    Raises:
        UsageError: OUT holds something else, cannot be written, or another process is at work in it.
        OSError: the disk is full.
    """
    work = out / f".{verb}-work"
    try:
        if not work.is_dir() and out.exists() and any(out.iterdir()) and not work.is_dir():  # made meanwhile by a task
            what = f"not empty, and nothing in it that vitstream {verb} began"
            raise UsageError(f"{out}: {what}; choose another --out, or delete it")
        work.mkdir(parents=True, exist_ok=True)
        fd = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise unusable(out, error) from None
    try:
        if lock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB) is False:
            raise UsageError(f"{out}: another vitstream {verb} is at work in it; wait for it, or stop it")
        yield work
    finally:
        os.close(fd)


def lock(fd: int, kind: int) -> bool | None:
    """Locks an open file. False where another process has it; None where the file system knows no locks."""
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def unusable(out: Path, error: OSError) -> UsageError:
    """What to raise where OUT can be neither found nor made."""
    return UsageError(f"{out}: cannot be written ({error.strerror}); choose another --out")


def explained(error: OSError, out: Path, kept: str) -> WorkFailed:
    """What to raise where reading or writing failed half-way; `kept` says what is not lost."""
    if error.errno in DISK_FULL:
        return WorkFailed(f"{out}: no space left; {kept}: make room and run the same again")
    where = escape(str(error.filename or out))
    return WorkFailed(f"{where}: {error.strerror or error}; {kept}: run the same command again to continue")
