"""Folders that are either whole or not there: filled beside their place, then renamed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import fsync_directory


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Yields an empty folder, which becomes OUT when the block ends without an error; else it is removed.

    Locked meanwhile: of two processes that make the same OUT, one is refused. What one that was killed left is removed.

    Raises:
        UsageError: OUT is there and not empty, or another process is making it.
        OSError: it cannot be written.
    """
    place = out.absolute()
    if not place.name or place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise UsageError(f"{out}: not empty, and nothing to go on with; choose another --out, or delete it")
    if place.exists() and place.samefile(Path.cwd()):
        raise UsageError(f"{out}: is the folder that you are in, which a rename would replace; choose another --out")
    folder = place.with_name(f".{place.name}.aside")
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _ours(fd, folder):
            raise UsageError(f"{out}: another vitstream is making it; wait for it, or stop it")
        try:
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield folder
            fsync_directory(folder)
            folder.replace(place)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(fd)
    fsync_directory(place.parent)


def _ours(fd: int, folder: Path) -> bool:
    """Locks the open folder. False where another process has it, or had it and has given it its name meanwhile."""
    with suppress(OSError):  # some network file systems know no locks
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    try:
        return os.path.samestat(os.fstat(fd), folder.stat())
    except FileNotFoundError:
        return False
