"""What `vitstream index` is given: tars, a folder of tars, or an MDS folder."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data_prep.foreign.tars import compression
from data_prep.mds.reader import is_mds, read_classes, read_index
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import MANIFEST_NAME, Container, Shard
from pipeline.dataset.names import escape, one_line

MAX_NAME_BYTES: Final = 200  # a name of ours grows by a suffix, and while it is written by another


@dataclass(frozen=True)
class GivenShard:
    """One file that becomes a shard. `name` is what the dataset calls it."""

    name: str
    path: Path
    bytes: int


@dataclass(frozen=True)
class Given:
    """All of them, in the order of the samples; `classes` where an MDS folder brings its own list."""

    container: Container
    shards: tuple[GivenShard, ...]
    classes: tuple[str, ...] | None = None
    samples: int | None = None  # as index.json says


def find_shards(paths: Sequence[Path]) -> Given:
    """The shards of what the user named: files in the order given, a folder's tars sorted by the bytes of their names.

    Raises:
        UsageError: something is missing, compressed, named twice, or there is nothing.
    """
    found = [(path, _asks(path, Path.is_dir)) for path in paths]
    folders = [path for path, is_folder in found if is_folder and _asks(path, is_mds)]
    if folders:
        if len(paths) > 1:
            raise UsageError(f"{folders[0]}: an MDS folder is indexed alone; give each its own --out")
        return _mds(folders[0])
    shards = [_tar(path) for given, is_folder in found for path in (_tars(given) if is_folder else [given])]
    _check_names([(shard.name, shard.path) for shard in shards])
    return Given("tar", tuple(shards))


def _mds(folder: Path) -> Given:
    listed = read_index(folder)
    shards = []
    for shard in listed:
        if shard.compression is not None:
            advice = "decompress it, or write the samples anew with vitstream shard"
            raise UsageError(f"{shard.path}: compressed ({shard.compression}): no sample can be read alone; {advice}")
        found = _size(shard.path)
        if found != shard.bytes:
            raise UsageError(f"{shard.path}: has {found:,} bytes, index.json says {shard.bytes:,}; copy it again")
        count = int.from_bytes(_head(shard.path, 4), "little")  # MDS begins with it
        if count != shard.samples:
            raise UsageError(f"{shard.path}: has {count:,} samples, index.json says {shard.samples:,}; copy both again")
        shards.append(GivenShard(shard.name, shard.path, found))
    _check_names([(shard.name, shard.path) for shard in shards])
    return Given("mds", tuple(shards), read_classes(folder), sum(shard.samples for shard in listed))


def _tars(folder: Path) -> list[Path]:
    if (folder / MANIFEST_NAME).exists():
        raise UsageError(f"{folder}: is a dataset already; use it as it is")
    tars = sorted(folder.glob("*.tar"), key=os.fsencode)
    if not tars:
        raise UsageError(f"{folder}: neither *.tar nor the index.json of an MDS folder in it")
    return tars


def _tar(path: Path) -> GivenShard:
    size = _size(path)
    head = _head(path, 512)
    packed = compression(head)
    if packed and head[257:262] != b"ustar":
        advice = f"decompress it ({packed} -d), or write the samples anew with vitstream shard"
        raise UsageError(f"{path}: compressed ({packed}): no sample can be read alone; {advice}")
    return GivenShard(path.name, path, size)


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _asks(path: Path, question: Callable[[Path], bool]) -> bool:
    try:
        return question(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _size(path: Path) -> int:
    if str(path).partition("://")[1] or ":/" in str(path):
        raise UsageError(f"{path}: not on this machine; index adopts local files, vitstream shard reads remote ones")
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        return path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _check_names(named: Sequence[tuple[str, Path]]) -> None:
    seen: dict[str, Path] = {}
    for name, path in named:
        if one_line(name) != name or len(os.fsencode(name)) > MAX_NAME_BYTES:
            why = "is too long" if one_line(name) == name else "holds a line break, a control character or no UTF-8"
            raise UsageError(f"{path}: its name {why}; rename it, or give a link to it")
        for file in (name, Shard(name, 0, 0, "", "").index_name):
            if file in seen:
                both = f"{seen[file]} and {path}: both would be {escape(file)} in the dataset"
                raise UsageError(f"{both}; rename one, or index them into two datasets")
            seen[file] = path
