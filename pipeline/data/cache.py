"""A folder on a node's own disk, shared by all processes of all runs that name it: files of datasets, whole.

    1f0c..9b-629145600.shard   the file whose xxh3 and size these are: another dataset's of the same content, too
    1f0c..9b-629145600.part    one that is being fetched, locked by who fetches it
    .vitstream-cache           the lock under which files appear and go, and what they take up

Every lock is the kernel's and dies with its process. Whoever reads a file holds a shared lock on it; only a file that
nobody holds is removed, the least recently opened first, and never one of a process's own datasets for another of them:
every shard is needed as soon as any other. What has no room is read by ranges.
"""

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import uniform
from typing import Final

import xxhash

from pipeline.config import Cache
from pipeline.data.cache_voice import say, say_unusable, why_not
from pipeline.dataset.blob import LocalBlob
from pipeline.dataset.errors import UsageError
from pipeline.dataset.location import Location
from pipeline.dataset.names import escape
from pipeline.dataset.quantities import human_bytes

LOCK_NAME: Final = ".vitstream-cache"
RESTS_S: Final = 60.0  # a file opened this recently belongs to a run that goes on
_NAME: Final = re.compile(r"[0-9a-f]{16}-(\d{1,16})\.(shard|part)")
LOCK_S: Final = 30.0  # who holds the lock of the folder does so for moments; longer, and it is no use to us
_SAY_AGAIN_S: Final = 3600.0
FULL_S: Final = 60.0  # that a full folder is left alone
_LEFT_FREE: Final = 0.05  # of the disk


@dataclass(frozen=True)
class Wanted:
    """A file of a dataset, as its manifest says it is."""

    bytes: int
    xxh3: str

    @property
    def name(self) -> str:
        """What it is called in the folder, without suffix."""
        return f"{self.xxh3}-{self.bytes}"


class Folder:
    """The cache as one process sees it. Safe to use from several threads at once."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Removes what killed processes have left. Raises OSError where files cannot be made or locked there."""
        self.path, self.limit = folder, limit
        self._own: set[str] = set()
        self._full_until = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        with self.locked() as ledger:
            self._scan(ledger, 0)

    def claim(self, files: Iterable[Wanted]) -> None:
        """These belong to a dataset of ours: they are not removed for another one."""
        self._own.update(f"{file.name}.shard" for file in files)

    def open(self, file: Wanted) -> LocalBlob | None:
        """The file, if it is here; it stays as long as the blob is in use. Raises OSError."""
        ends = time.monotonic() + LOCK_S
        while time.monotonic() < ends:
            try:
                blob = LocalBlob(self.path / f"{file.name}.shard")
            except FileNotFoundError:
                return None
            with suppress(BlockingIOError):  # somebody removes it, or has just made it
                fcntl.flock(blob.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(blob.fd).st_nlink:
                    with suppress(OSError):
                        os.utime(blob.fd)  # opened now
                    return blob
            blob.close()
            time.sleep(uniform(0.001, 0.02))
        return None

    @contextmanager
    def locked(self) -> Iterator["Ledger"]:
        """Alone among all processes, for moments. Raises OSError; TimeoutError where someone else does not end."""
        fd = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            ends = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise TimeoutError from None
                    time.sleep(uniform(0.001, 0.02))
            ledger = Ledger(fd)
            try:
                yield ledger
            finally:
                ledger.write()
        finally:
            os.close(fd)

    def make_room(self, ledger: "Ledger", size: int) -> bool:
        """Whether `size` more bytes may lie here now, and if so counts them; removes what it has to."""
        if not self._fits(ledger, size):
            if time.monotonic() < self._full_until:
                return False
            self._scan(ledger, size)
            if not self._fits(ledger, size):
                self._full_until = time.monotonic() + FULL_S
                used = f"{human_bytes(ledger.used)} of {human_bytes(self.limit)} are in use"
                full = ledger.used + size > self.limit
                ledger.say_full(self.path, used if full else f"{used}, and its disk has no room for more")
                return False
        ledger.used += size
        ledger.write()  # before the file is there: a kill may leave too much counted, never too little
        return True

    def remove(self, file: Wanted, blob: LocalBlob) -> None:
        """Removes a file, in use or not, if it is still that which `blob` has open. Raises as `locked`."""
        with self.locked() as ledger, suppress(FileNotFoundError):
            path = self.path / f"{file.name}.shard"
            if os.path.samestat(path.stat(follow_symlinks=False), os.fstat(blob.fd)):
                path.unlink()
                ledger.used -= file.bytes

    def _fits(self, ledger: "Ledger", size: int) -> bool:
        """Within our limit, and with some of the disk left free."""
        disk = os.statvfs(self.path)
        free = disk.f_bavail - _LEFT_FREE * disk.f_blocks
        return ledger.used + size <= self.limit and size <= free * disk.f_frsize

    def _scan(self, ledger: "Ledger", size: int) -> None:
        """Counts anew; removes what killed processes left, and what nobody uses until `size` bytes have room."""
        ledger.used, idle = 0, []
        for entry in os.scandir(self.path):
            found = _NAME.fullmatch(entry.name)
            if not found or not entry.is_file(follow_symlinks=False):
                continue
            if found[2] == "part" and remove_idle(entry.path):
                continue
            ledger.used += int(found[1])
            if found[2] == "shard" and entry.name not in self._own:
                idle.append((entry.stat(follow_symlinks=False).st_mtime, entry.path, int(found[1])))
        for opened, path, bytes_ in sorted(idle):
            if self._fits(ledger, size) or opened > time.time() - RESTS_S:
                break
            if remove_idle(path):
                ledger.used -= bytes_


class Ledger:
    """What the lock's file says. It may count too much, after a kill or where files were removed by hand; see _scan."""

    def __init__(self, fd: int) -> None:
        """Reads it. One that is new or damaged counts as full: that leads to a scan."""
        self._fd = fd
        self.used, self.said = 2**62, 0.0  # bytes; when it was last said that there is no room
        with suppress(ValueError, KeyError, TypeError):
            body = json.loads(os.pread(fd, 4096, 0))
            self.used, self.said = int(body["used"]), float(body["said"])

    def write(self) -> None:
        """Keeps what was changed. Raises OSError."""
        body = json.dumps({"used": self.used, "said": self.said}).ljust(80).encode()
        os.pwrite(self._fd, body, 0)
        os.ftruncate(self._fd, len(body))

    def say_full(self, folder: Path, why: str) -> None:
        """That the cache takes no more, on stderr: once for all processes."""
        if time.time() - self.said > _SAY_AGAIN_S:
            self.said = time.time()
            say(folder, f"{why}; what has no room is read by ranges")


@lru_cache(maxsize=8)
def folder_of(path: Path, limit: int, process: int) -> Folder:
    """One per process and place. Raises OSError."""
    return Folder(path, limit)


def open_folder(cache: Cache, datasets: Iterable[Location]) -> Folder:
    """The cache, for these datasets, before a run.

    Raises:
        UsageError: it cannot be used, or lies inside one of them.
    """
    path, where = Path(os.path.realpath(cache.dir)), f"data.cache.dir {escape(str(cache.dir))}"
    for dataset in datasets:
        if not dataset.is_remote and path.is_relative_to(os.path.realpath(dataset.path)):
            raise UsageError(f"{where}: lies inside the dataset {escape(str(dataset))}; name another folder")
    try:
        return folder_of(path, cache.bytes, os.getpid())
    except OSError as error:
        raise UsageError(f"{where}: cannot be used ({why_not(error)}); name another") from None


def reopen_folder(cache: Cache) -> Folder | None:
    """The cache, in a process of a run that goes on; None, which is said, where it cannot be used any more."""
    path = Path(os.path.realpath(cache.dir))
    try:
        return folder_of(path, cache.bytes, os.getpid())
    except OSError as error:
        say_unusable(path, why_not(error))
        return None


def is_sound(fd: int, file: Wanted) -> bool:
    """Whether an open file is what the manifest says. Raises OSError."""
    hasher, at = xxhash.xxh3_64(), 0
    while block := os.pread(fd, 2**20, at):
        hasher.update(block)
        at += len(block)
    return at == file.bytes and hasher.hexdigest() == file.xxh3


def remove_idle(path: str) -> bool:
    """Removes a regular file on which nobody holds a lock; True if it has gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Path(path).unlink()
        return True
    except OSError:  # in use, or another user's
        return False
    finally:
        os.close(fd)
