"""Files that are either whole or not there: write aside, fsync, rename, fsync the directory."""

import errno
import fcntl
import glob
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading. Raises OSError also for a pipe or a device: from these one may read for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # which is to say, not waiting for a pipe's writer
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        reason = "Is a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, reason, str(path))
    return os.fdopen(fd, "rb")


def read_regular(path: Path) -> bytes:
    """All of a file. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def fsync_directory(directory: Path) -> None:
    """Makes renames inside `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that appears as `path`, complete and durable, when the block ends without an error.

    The temporary name is this writer's own, so two writers of the same path, also on two machines, never share a
    file; the last rename wins, whole.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.urandom(6).hex()}")
    try:
        with temporary.open("wb") as file:
            with suppress(OSError):  # some network file systems know no locks
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells remove_abandoned that we live
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """Writes a file, as `atomic_file` does, that only its owner may read: a URL in it may hold credentials."""
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        file.write(data)


def remove_abandoned(path: Path) -> None:
    """Removes what writers of `path` that were killed left behind; those at work, on any machine, hold a lock."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        with suppress(OSError), temporary.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()


def render_json(value: Any) -> bytes:
    """Readable JSON: the same value in the same order gives the same bytes."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    """Writes `render_json(value)`, atomically."""
    with atomic_file(path) as file:
        file.write(render_json(value))


def is_plain_name(name: object) -> bool:
    """Whether a name out of a file may be joined to a folder: it stays inside, and is not the folder itself."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def canonical_json(value: Any) -> bytes:
    """The one byte string that stands for `value` wherever it is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
