"""Local files, read as whoever wrote the listing wanted it: regular, of the listed size, not too large."""

import os
import stat

from data_prep.sources.base import UNKNOWN_BYTES
from pipeline.dataset.images import ImageError
from pipeline.dataset.remote.objects import MAX_FILE_BYTES


def read_file(path: bytes, size: int) -> bytes:
    """A file's bytes; `size` is what was listed.

    Raises:
        ImageError: it cannot be read, is no regular file, too large, or not as it was listed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe must not wait for a writer
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"too large: {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
            if size not in (status.st_size, UNKNOWN_BYTES):
                raise ImageError(f"changed since it was listed: from {size:,} to {status.st_size:,} bytes")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or 'not a file name'}") from None
