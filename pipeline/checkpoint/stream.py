"""Writing a file and hashing it in one pass, and finding which bytes of it have changed since. Torch-free.

The SHA-256 of a file says whether it is what was written; the short hashes of its blocks say where it is not.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final

import xxhash

from pipeline.dataset.files import open_regular

BLOCK_BYTES: Final = 4 * 2**20
_AHEAD: Final = 8  # pieces that hashing may be ahead of the disk
_FLUSH_BYTES: Final = 16 * 2**20  # after which the disk is asked to begin
_SMALL: Final = 2**16  # bytes for which another thread is not worth its wake-up


def write_hashed(path: Path, views: Iterable[memoryview]) -> dict[str, Any]:
    """Writes a new file and makes it durable.

    Args:
        path: not there yet.
        views: its bytes, in order. They are hashed here and written by another thread, neither of which holds the
            interpreter; each may change once the next eight large ones have been asked for, or at the end.

    Returns:
        {"name", "bytes", "sha256", "block_bytes", "blocks"}; `blocks` are xxh3-64 hashes, 16 hex digits each.

    Raises:
        OSError: the disk is full, say. Part of the file may be there.
    """
    sha256, block, blocks, size = hashlib.sha256(), xxhash.xxh3_64(), [], 0
    with path.open("xb", buffering=0) as file, _Writer(file) as writer:
        for piece in _cut(views):
            writer.write(piece)
            sha256.update(piece)
            block.update(piece)
            size += len(piece)
            if size % BLOCK_BYTES == 0:
                blocks.append(block.hexdigest())
                block = xxhash.xxh3_64()
        writer.finish()
        os.fsync(file.fileno())
    if size % BLOCK_BYTES:
        blocks.append(block.hexdigest())
    hashes = {"sha256": sha256.hexdigest(), "block_bytes": BLOCK_BYTES, "blocks": blocks}
    return {"name": path.name, "bytes": size} | hashes


def sha256_of(path: Path) -> str:
    """Raises OSError, also where it is no regular file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for piece in _read(file, BLOCK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def changed_bytes(path: Path, block_bytes: int, blocks: list[str]) -> list[tuple[int, int]]:
    """[first, last] of the stretches of a file whose blocks are not what was written. Raises OSError."""
    stretches: list[tuple[int, int]] = []
    with open_regular(path) as file:
        at = 0
        for piece, expected in zip(_read(file, block_bytes), blocks, strict=False):
            first, at = at, at + len(piece)
            if xxhash.xxh3_64_hexdigest(piece) == expected:
                continue
            if stretches and stretches[-1][1] == first - 1:
                first = stretches.pop()[0]
            stretches.append((first, at - 1))
    return stretches


def _cut(views: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same bytes in pieces none of which crosses from one block of the file into the next."""
    room = BLOCK_BYTES
    for view in views:
        rest = view.cast("B")
        while len(rest):
            piece, rest = rest[:room], rest[room:]
            room = room - len(piece) or BLOCK_BYTES
            yield piece


class _Writer:
    """Writes pieces in another thread, and has a third one see to it that they reach the disk meanwhile.

    What has reached it is dropped from the page cache. So a checkpoint pushes no shards out of it, and its pages are
    used again: taking new ones from the system can cost more than all else here.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._unflushed = file, 0
        self._writing: deque[Future[None]] = deque()
        self._flushing: Future[None] | None = None

    def __enter__(self) -> "_Writer":
        self._writer, self._flusher = (ThreadPoolExecutor(1, f"checkpoint-{what}") for what in ("write", "flush"))
        return self

    def __exit__(self, *_: object) -> None:
        """After an error nothing of what still waits is written."""
        self._writer.shutdown(cancel_futures=True)
        self._flusher.shutdown()

    def write(self, piece: memoryview) -> None:
        """Raises what an earlier piece has met."""
        if len(piece) < _SMALL and not self._writing:
            _write_all(self._file, piece)
        else:
            self._writing.append(self._writer.submit(_write_all, self._file, piece))
        while len(self._writing) > _AHEAD or (self._writing and self._writing[0].done()):
            self._writing.popleft().result()
        self._unflushed += len(piece)
        if self._unflushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._flush()

    def finish(self) -> None:
        """Waits until all is written. Raises what it has met."""
        while self._writing:
            self._writing.popleft().result()
        if self._flushing is not None:
            self._flushing.result()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.result()  # an error is told once: to whoever waits first
        # Begins to write what is dirty, and drops what is written. Not fdatasync: on a file that grows, each is a
        # commit of the file system's journal. What goes wrong is told by the fsync at the end.
        drop = self._flusher.submit(os.posix_fadvise, self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._flushing, self._unflushed = drop, 0


def _write_all(file: BinaryIO, piece: memoryview) -> None:
    while len(piece):
        piece = piece[file.write(piece) :]


def _read(file: BinaryIO, size: int) -> Iterator[memoryview]:
    """A file's bytes in pieces of `size`, all but the last; each is valid until the next is asked for.

    Another thread reads a piece while the one before it is hashed.
    """
    filling, hashing = (memoryview(bytearray(size)) for _ in range(2))
    with ThreadPoolExecutor(1, "checkpoint-read") as reader:
        count = size
        reading = reader.submit(_fill, file, filling)
        while count == size:
            count, filling, hashing = reading.result(), hashing, filling
            if count == size:
                reading = reader.submit(_fill, file, filling)
            if count:
                yield hashing[:count]


def _fill(file: BinaryIO, buffer: memoryview) -> int:
    """Bytes read; fewer than there is room for only at the file's end."""
    filled = 0
    while filled < len(buffer) and (count := file.readinto(buffer[filled:])):  # type: ignore[attr-defined]
        filled += count
    return filled
