"""An MDS folder: raw local shards are read at random; compressed or remote ones are fetched whole, one at a time.

A sample is listed as SHARD/ROW, or by the key that stands in it, so it is the same sample as in `vitstream index`.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa

from data_prep.common.remote import read
from data_prep.foreign.packed import LabelError, Labels
from data_prep.mds.reader import read_classes, read_index, rows
from data_prep.sources.base import UNKNOWN_BYTES, Place, Source
from data_prep.sources.files import OPEN_FILES, open_file
from data_prep.sources.inflate import Bomb, Inflated
from data_prep.sources.labels import LabelStyle
from data_prep.sources.rows import Row, batches
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.keys import own_key
from pipeline.dataset.mds import MdsError, MdsShard
from pipeline.dataset.mds_columns import choose_columns
from pipeline.dataset.mds_listing import CLASSES_NAME, INDEX_NAME
from pipeline.dataset.names import escape, unescape
from pipeline.dataset.remote.objects import MAX_FILE_BYTES, list_folder
from pipeline.dataset.remote.urls import is_url, join, public

CODECS: Final = {"zstd": "zstd", "gz": "gzip", "bz2": "bz2", "br": "brotli"}
PEEKED: Final = 64


@dataclass(frozen=True)
class MdsFile:
    """One shard: its name, and where below the root it lies."""

    name: str
    file: str
    bytes: int  # inflated
    compression: str | None


@dataclass(frozen=True)
class MdsSource(Source):
    """`root` is a folder or URL. An image's `offset` is its row in its shard."""

    root: str
    name: str
    streamed: bool
    numbered: bool
    multi: bool
    class_names: tuple[str, ...] | None

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        return batches(row for shard in listed(self.root)[0] for row in self._rows(shard))

    def read(self, place: Place) -> bytes:
        name = unescape(place.file)
        try:
            file, head, image = _cached(f"{self.root}/{name}")
            return _image(file.fileno(), head, image, place.offset, place.bytes)
        except MdsError as error:
            raise ImageError(str(error)) from None
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from None

    def stream(self, file: str) -> Iterator[tuple[int, bytes]]:
        name = unescape(file)
        shard = next(shard for shard in listed(self.root)[0] if shard.file == name)
        try:
            with opened(self.root, shard) as (fd, head):
                image = choose_columns(head.columns).image.name
                for number in range(head.samples):
                    yield number, _image(fd, head, image, number, UNKNOWN_BYTES)
        except (MdsError, Bomb, UsageError) as error:
            raise WorkFailed(str(error)) from None

    def _rows(self, shard: MdsFile) -> Iterator[Row]:
        style, name = LabelStyle(self.numbered, self.multi), escape(shard.name)
        try:
            with opened(self.root, shard) as (fd, head):
                for row in rows(shard.name, fd, head, choose_columns(head.columns)):
                    by_place = row.key == own_key(shard.name, str(row.number))
                    path = f"{name}/{row.number if by_place else row.key}"
                    wrong = isinstance(row.labels, LabelError)
                    labels = [] if wrong else list(row.labels.values)
                    reject = str(row.labels) if wrong else style.refusal(row.labels)
                    if row.image.size > MAX_FILE_BYTES:
                        reject = f"too large: {row.image.size:,} bytes, the limit is {MAX_FILE_BYTES:,}"
                    yield Row(path, labels, row.image.size, escape(shard.file), row.number, reject)
        except (MdsError, Bomb) as error:
            raise UsageError(f"{name}: {error}; make it again") from None


def open_mds(root: str, name: str) -> MdsSource:
    """Opens a folder or URL that has an index.json.

    Raises:
        UsageError: it is damaged, or has no image column.
        WorkFailed: a remote one does not answer.
    """
    shards, classes = listed(root)
    packed = {shard.compression for shard in shards} - {None}
    for unknown in sorted(packed - CODECS.keys()):
        raise UsageError(f"{name}: its shards are compressed with {escape(str(unknown))}, which is not read")
    seen: list[Labels] = []
    try:
        with opened(root, shards[0]) as (fd, head):
            for row in rows(shards[0].name, fd, head, choose_columns(head.columns)):
                if not isinstance(row.labels, LabelError):
                    seen.append(row.labels)
                if len(seen) == PEEKED:
                    break
    except (MdsError, Bomb) as error:
        raise UsageError(f"{name}/{escape(shards[0].name)}: {error}") from None
    style = LabelStyle.of(seen)
    return MdsSource(root, name, bool(packed) or is_url(root), style.numbered, style.multi, classes)


def listed(root: str) -> tuple[list[MdsFile], tuple[str, ...] | None]:
    """The shards, and the names of the classes where they are known. Raises UsageError, WorkFailed."""
    if not is_url(root):
        return _listed(Path(root))
    present = {name for name, _ in list_folder(root)[1]}
    with tempfile.TemporaryDirectory() as folder:
        for name in (INDEX_NAME, CLASSES_NAME):
            if name in present:
                (Path(folder) / name).write_bytes(read(join(root, name)))
        try:
            return _listed(Path(folder))
        except UsageError as error:
            raise UsageError(str(error).replace(folder, public(root))) from None


def _listed(folder: Path) -> tuple[list[MdsFile], tuple[str, ...] | None]:
    shards = [
        MdsFile(shard.name, shard.path.relative_to(folder).as_posix(), shard.bytes, shard.compression)
        for shard in read_index(folder)
    ]
    return shards, read_classes(folder)


@contextmanager
def opened(root: str, shard: MdsFile) -> Iterator[tuple[int, MdsShard]]:
    """A shard as a local file, and its head. Raises MdsError, Bomb, UsageError, WorkFailed."""
    with open_file(join(root, shard.file) if is_url(root) else f"{root}/{shard.file}") as file:
        if not is_url(root) and shard.compression is None:
            yield file.fileno(), MdsShard.read(file.fileno())
            return
        with tempfile.TemporaryFile() as whole:
            plain = file if shard.compression is None else Inflated(file, CODECS[shard.compression])
            _copy(plain, whole, shard.bytes)
            yield whole.fileno(), MdsShard.read(whole.fileno())


def _copy(source: BinaryIO | Inflated, target: BinaryIO, limit: int) -> None:
    """At most `limit` bytes, which is what the index says there are. Raises MdsError where there are more."""
    while data := source.read(2**20):
        target.write(data)
        if target.tell() > limit:
            raise MdsError(f"has more than the {limit:,} bytes that {INDEX_NAME} says")
    target.flush()


def _image(fd: int, head: MdsShard, column: str, number: int, size: int) -> bytes:
    """The image of a row. Raises MdsError, ImageError."""
    begin = int(head.offsets[number])
    variable = 4 * sum(not column.size for column in head.columns)
    place = head.fields(number, os.pread(fd, variable, begin))[column]
    if size not in (place.size, UNKNOWN_BYTES):
        raise ImageError("changed since it was listed: another shard lies there now")
    return os.pread(fd, min(place.size, MAX_FILE_BYTES), place.offset)


@lru_cache(maxsize=OPEN_FILES)
def _cached(path: str) -> tuple[BinaryIO, MdsShard, str]:
    file = Path(path).open("rb", buffering=0)  # noqa: SIM115 (closed when it falls out of the cache)
    head = MdsShard.read(file.fileno())
    return file, head, choose_columns(head.columns).image.name
