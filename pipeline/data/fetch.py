"""A whole file, from where it lies into the node's cache: by one process, while the others wait for it."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from random import uniform
from typing import Final

from pipeline.data.cache import Folder, Wanted, is_sound, remove_idle
from pipeline.data.cache_voice import say_unusable, why_not
from pipeline.dataset.blob import Blob, LocalBlob, Unreadable

PIECE_BYTES: Final = 2**23  # of a request
_PIECES: Final = 4  # requests at once, and pieces in memory, per file
_LARGE = threading.BoundedSemaphore(2)  # files that a process fetches at once, but for small ones
_ATTEMPTS: Final = 2  # of a file that turns out to be another than it should be
_TURNS: Final = 20  # of waiting for somebody who then has not fetched it either


class AnotherFile(Unreadable):
    """What lies there."""

    def __init__(self) -> None:
        super().__init__("not what its manifest says")


class NoRoom(Exception):
    """The cache cannot take the file, or whoever fetches it does not get on."""


def fetch(folder: Folder, file: Wanted, origin: Callable[[], Blob], patience_s: float) -> LocalBlob:
    """The file, out of the cache.

    Args:
        folder: the cache.
        file: what it has to be.
        origin: opens it where it lies.
        patience_s: how long we wait for another process that fetches it and does not get on.

    Raises:
        NoRoom: read it by ranges.
        Unreadable: its origin cannot be read.
        AnotherFile: its origin is another.
        OSError: its origin cannot be read.
    """
    for _ in range(_TURNS):
        try:
            with _disk():
                found = folder.open(file)
            if found is not None:
                return found
            with nullcontext() if file.bytes <= PIECE_BYTES else _LARGE, _part(folder, file) as fd:
                if fd is not None:
                    _fill(fd, file, origin)
        except _Disk as error:
            say_unusable(folder.path, why_not(error.error))
            raise NoRoom from None
        if fd is None:
            _wait(folder, file, patience_s)
    raise NoRoom


class _Disk(Exception):
    """The cache's own disk fails us."""

    def __init__(self, error: OSError) -> None:
        self.error = error


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Disk(error) from None


@contextmanager
def _part(folder: Folder, file: Wanted) -> Iterator[int | None]:
    """A locked file to be filled, which then appears in the cache; None where somebody else has it in hand.

    Raises NoRoom, _Disk.
    """
    part, whole = (folder.path / f"{file.name}.{suffix}" for suffix in ("part", "shard"))
    with _disk(), folder.locked() as ledger:
        if whole.exists() or (part.exists() and not remove_idle(str(part))):
            fd = None
        elif folder.make_room(ledger, file.bytes):
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX)  # who waits for the file may look whether it is locked, just now
        else:
            raise NoRoom
    if fd is None:
        yield None
        return
    try:
        _reserve(fd, file.bytes, folder)
        yield fd
        with _disk(), folder.locked():
            part.rename(whole)
    except BaseException:
        with suppress(OSError, TimeoutError), folder.locked() as ledger:  # or the next scan does it
            part.unlink()
            ledger.used -= file.bytes
        raise
    finally:
        os.close(fd)


def _reserve(fd: int, size: int, folder: Folder) -> None:
    """The disk's blocks, now: it is full before hundreds of megabytes were fetched, not after."""
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            with suppress(OSError, TimeoutError), folder.locked() as ledger:
                ledger.say_full(folder.path, f"no room on its disk ({error.strerror})")
            raise NoRoom from None
        raise _Disk(error) from None


def _fill(fd: int, file: Wanted, origin: Callable[[], Blob]) -> None:
    """Fetches all of it. Raises Unreadable, AnotherFile, OSError; _Disk."""
    for _ in range(_ATTEMPTS):
        _copy(origin(), fd, file.bytes)
        with _disk():
            if is_sound(fd, file):
                os.fsync(fd)
                return
    raise AnotherFile


def _copy(origin: Blob, fd: int, size: int) -> None:
    """In pieces, some at once."""

    def copy(at: int) -> None:
        data = origin.read(at, min(PIECE_BYTES, size - at))
        with _disk():
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:] if written else data, at + written)

    pool = ThreadPoolExecutor(_PIECES, "fetch")
    try:
        for done in [pool.submit(copy, at) for at in range(0, size, PIECE_BYTES)]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _wait(folder: Folder, file: Wanted, patience_s: float) -> None:
    """Until whoever fetches it has ended, well or not. Raises NoRoom where nothing moves for `patience_s`."""
    part = folder.path / f"{file.name}.part"
    last, since = None, time.monotonic()
    while time.monotonic() - since < patience_s:
        time.sleep(uniform(0.01, 0.1))
        try:
            fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # it is whole, or has been given up
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return  # who had it is dead
        except BlockingIOError:
            written = os.fstat(fd).st_mtime_ns
            if written != last:
                last, since = written, time.monotonic()
        finally:
            os.close(fd)
    raise NoRoom
