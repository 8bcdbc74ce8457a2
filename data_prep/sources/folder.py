"""Which images there are: folders of class folders, listed completely and in an order of their own.

An image's identity is its path relative to its SOURCE. Its class is that path's first component; what lies deeper
belongs to the same class. Only names are read here; what is inside a file is found out when it is encoded.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.names import escape, from_bytes, to_bytes
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import sample_key

SUFFIXES = (b".jpg", b".jpeg", b".png", b".webp", b".gif")
_TAKEN = "JPEG, PNG, WebP or GIF"


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One listed file."""

    key: str
    path: str  # relative to its source, '/'-separated, undecodable bytes as surrogates
    source: int  # which of the sources
    label: int
    bytes: int


@dataclass(frozen=True)
class Listing:
    """All images of all sources, sorted by the bytes of their paths; and what was passed over."""

    roots: tuple[Path, ...]
    images: tuple[SourceImage, ...]
    classes: tuple[str, ...]  # sorted by their bytes; a label is a position in here
    ignored: dict[str, int]

    def digest(self) -> str:
        """SHA-256 over every path and size: two listings with the same digest shard to the same bytes."""
        hasher = hashlib.sha256()
        for image in self.images:
            hasher.update(b"%s\0%d\0" % (to_bytes(image.path), image.bytes))
        return hasher.hexdigest()


def list_images(sources: Sequence[Path]) -> Listing:
    """Walks the sources.

    Raises:
        UsageError: a source is missing, no folder, unreadable or without images; an image lies outside any class
            folder; two sources hold the same relative path.
    """
    ignored: Counter[str] = Counter()
    found: dict[str, tuple[int, int]] = {}  # path -> (source, bytes)
    for number, source in enumerate(sources):
        if resolved(source) in map(resolved, sources[:number]):
            raise UsageError(f"{source}: given twice as SOURCE")
        before = len(found)
        for path, size in _walk(source, ignored):
            if path in found:
                other = sources[found[path][0]]
                where = f"{escape(path)!r} lies in {other} and in {source}"
                raise UsageError(f"{where}: rename one; an image's relative path is its identity")
            found[path] = (number, size)
        if len(found) == before:
            raise UsageError(f"{source}: no images in it; expected {source}/CLASS/NAME, each a {_TAKEN} file")
    paths = sorted(found, key=to_bytes)
    classes = sorted({path.partition("/")[0] for path in paths}, key=to_bytes)
    label = {name: position for position, name in enumerate(classes)}
    images = tuple(SourceImage(sample_key(p), p, found[p][0], label[p.partition("/")[0]], found[p][1]) for p in paths)
    _check_keys(images)
    return Listing(tuple(map(resolved, sources)), images, tuple(map(escape, classes)), dict(ignored))


def resolved(path: Path) -> Path:
    """The path without links. Raises UsageError where they lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # which of them depends on Python's version
        raise UsageError(f"{path}: a link that leads in a circle; name the folder itself") from None


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
            elif not entry.name.lower().endswith(SUFFIXES):
                ignored["files without an image suffix"] += 1
            elif not folder:
                hint = f"move it into a class folder, as in {source}/CLASS/{escape(from_bytes(path))}"
                raise UsageError(f"{source}/{escape(from_bytes(path))}: an image without a class; {hint}")
            else:
                yield from_bytes(path), _size(entry)
        stack += reversed(inner)


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


def _check_keys(images: Sequence[SourceImage]) -> None:
    paths: dict[str, str] = {}
    for image in images:
        other = paths.setdefault(image.key, image.path)
        if other != image.path:
            raise UsageError(f"{escape(other)!r} and {escape(image.path)!r} have the same key: rename one of them")
