"""Folders of class folders, local or on an object store, listed in an order of their own, one folder in memory.

An image's identity is its path relative to its SOURCE. Its class is that path's first component; what lies deeper
belongs to the same class. Only names are read here; what is inside a file is found out when it is encoded.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_prep.common.remote import read
from data_prep.sources.base import UNKNOWN_BYTES, Place, Source
from data_prep.sources.local import read_file
from data_prep.sources.rows import Row, batches
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.names import escape, from_bytes, to_bytes, unescape
from pipeline.dataset.remote.objects import list_folder
from pipeline.dataset.remote.urls import join, public

SUFFIXES = (b".jpg", b".jpeg", b".png", b".webp", b".gif", b".tif", b".tiff", b".bmp")
_TAKEN = "JPEG, PNG, WebP, GIF, TIFF or BMP"


@dataclass(frozen=True)
class FolderSource(Source):
    """A local folder. `root` is its absolute path, whose bytes may be any (surrogates)."""

    root: str
    name: str

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        return batches(_rows(_walk(Path(self.root), ignored), self.root))

    def read(self, place: Place) -> bytes:
        try:
            return read_file(to_bytes(self.root) + b"/" + to_bytes(unescape(place.file)), place.bytes)
        except ImageError:
            if _is_gone(self.root):
                raise WorkFailed(f"{escape(self.root)}: is gone, or empty; run again once it is back") from None
            raise


@dataclass(frozen=True)
class RemoteFolderSource(Source):
    """A folder of a bucket. `root` is its URL."""

    root: str
    name: str
    remote = True

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        return batches(_rows(_walk_remote(self.root, ignored), public(self.root)))

    def read(self, place: Place) -> bytes:
        return read(join(self.root, unescape(place.file)), 0, None if place.bytes == UNKNOWN_BYTES else place.bytes)


def _is_gone(root: str) -> bool:
    """Whether a folder is not there, or a place where nothing is mounted: then no image is at fault."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def is_image(name: bytes) -> bool:
    """Whether a file's name says that it is one."""
    return name.lower().endswith(SUFFIXES)


def _rows(found: Iterator[tuple[str, int]], where: str) -> Iterator[Row]:
    """A row per (relative path, bytes). Raises UsageError where there is none."""
    path = None
    for path, size in found:
        shown = escape(path)
        yield Row(shown, [escape(path.partition("/")[0])], size, shown, 0)
    if path is None:
        raise UsageError(f"{escape(where)}: no images in it; expected {escape(where)}/CLASS/NAME, each a {_TAKEN} file")


def _walk(source: Path, ignored: Counter[str]) -> Iterator[tuple[str, int]]:
    """(relative path, bytes) of every image below `source`. Folder links are followed, unless they lead back."""
    root = os.fsencode(source)
    status = _root_status(source)
    stack: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(b"", ((status.st_dev, status.st_ino),))]
    while stack:
        folder, ancestors = stack.pop()
        inner = []
        for entry in _entries(root + b"/" + folder):
            path = folder + entry.name
            if entry.name.startswith(b"."):
                ignored["hidden files or folders"] += 1
            elif _is_folder(entry):
                status = entry.stat()
                identity = (status.st_dev, status.st_ino)
                if identity in ancestors:
                    ignored["links that lead back"] += 1
                else:
                    inner.append((path + b"/", (*ancestors, identity)))
            elif not is_image(entry.name):
                ignored["files without an image suffix"] += 1
            elif not folder:
                raise _classless(escape(str(source)), escape(from_bytes(path)))
            else:
                yield from_bytes(path), _size(entry)
        stack += reversed(inner)


def _walk_remote(url: str, ignored: Counter[str]) -> Iterator[tuple[str, int]]:
    """(relative path, bytes) of every image below a URL, asked for folder by folder."""
    stack = [""]
    while stack:
        folder = stack.pop()
        folders, files = list_folder(join(url, folder.rstrip("/")) if folder else url)
        ignored["hidden files or folders"] += sum(name.startswith(".") for name in folders)
        for name, size in files:
            if name.startswith("."):
                ignored["hidden files or folders"] += 1
            elif not is_image(to_bytes(name)):
                ignored["files without an image suffix"] += 1
            elif not folder:
                raise _classless(public(url), escape(name))
            else:
                yield folder + name, size
        stack += [f"{folder}{name}/" for name in reversed(folders) if not name.startswith(".")]


def _classless(source: str, name: str) -> UsageError:
    hint = f"move it into a class folder, as in {source}/CLASS/{name}"
    return UsageError(f"{source}/{name}: an image without a class; {hint}")


def _root_status(source: Path) -> os.stat_result:
    try:
        status = source.stat()
    except FileNotFoundError:
        raise UsageError(f"{source}: no such folder; a SOURCE is a folder of class folders") from None
    except PermissionError:
        raise UsageError(f"{source}: no permission to reach it; allow it with chmod, or run as its owner") from None
    except OSError as error:
        raise UsageError(f"{source}: cannot be reached: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{source}: not a folder; a SOURCE is a folder of class folders")
    return status


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        name = escape(from_bytes(folder)).rstrip("/")
        raise UsageError(f"{name}: no permission to list it; allow it with chmod, or run as its owner") from None
    except OSError as error:
        raise UsageError(f"{escape(from_bytes(folder))}: cannot be listed: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _size(entry: os.DirEntry[bytes]) -> int:
    """Bytes of a file, through a link. 0 where there is none: reading it will tell why."""
    try:
        status = entry.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
