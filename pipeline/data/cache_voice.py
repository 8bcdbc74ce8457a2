"""What the cache tells the operator, on stderr: a line, and not one for each of a node's processes."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import xxhash

from pipeline.dataset.names import escape

_FLAGS: Final[list[socket.socket]] = []  # of what this process has said; the kernel lowers them when it ends


def say(folder: Path, what: str) -> None:
    """Something about it."""
    print(f"vitstream: data.cache.dir {escape(str(folder))}: {what}", file=sys.stderr, flush=True)


def say_unusable(folder: Path, why: str) -> None:
    """That it fails while a run goes on: once on this node, as long as who said it lives.

    The folder itself can keep no note of that, so it is a name that only one process may have, and that is no file.
    """
    flag = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with suppress(OSError):  # somebody has said it
        flag.bind(f"\0vitstream-cache-{xxhash.xxh3_64_hexdigest(os.fsencode(folder))}")
        _FLAGS.append(flag)
        say(folder, f"cannot be used any more ({why}); shards are read by ranges")


def why_not(error: OSError) -> str:
    """Why the folder cannot be used, in few words."""
    return error.strerror or "another process holds its lock"
