"""One shard: tar, index, its part of the catalogue, and last its record, which says that all of it is there.

All is written under the work folder and renamed when it is whole and on disk, so nothing half made is ever seen under
a final name, and a shard without a record is made again from the start, to the same bytes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import xxhash

from data_prep.catalog.plan import PlannedShard
from data_prep.catalog.samples import CatalogueRow, Reject, write_rows
from data_prep.names import escape
from data_prep.options import Options
from data_prep.shards.images import EncodedImage, encode, read_source
from data_prep.shards.tar import BLOCK, end_of_archive, member
from data_prep.sources.folder import SourceImage
from pipeline.dataset.files import atomic_file, fsync_directory, write_json
from pipeline.dataset.images import ImageError
from pipeline.dataset.index import IndexRow, write_index
from pipeline.dataset.keys import hex64, key_sum
from pipeline.dataset.manifest import File, Shard


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    planned: PlannedShard
    roots: tuple[Path, ...]
    options: Options
    work: Path  # where it grows
    shards: Path  # where it ends up

    def path(self, suffix: str) -> Path:
        """A file of this shard in the work folder."""
        return self.work / self.planned.name.replace(".tar", suffix)

    @property
    def record(self) -> Path:
        """The file whose presence says that the shard is done."""
        return self.path(".json")


@dataclass
class _Contents:
    """What has been put into the shard so far."""

    index: list[IndexRow] = field(default_factory=list)
    catalogue: list[CatalogueRow] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class _HashingFile:
    """Counts and hashes what goes into a file, so that no second pass over it is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = xxhash.xxh3_64()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hasher.update(data)
        self.size += len(data)

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def make_shard(task: ShardTask, advance: Callable[[int], None]) -> None:
    """Makes the shard and publishes it. `advance` is told of every image.

    Raises:
        OSError: something could not be written. Whatever is wrong with an image only rejects that image.
    """
    contents = _Contents()
    tar = task.path(".tar")
    tar.unlink(missing_ok=True)  # of an attempt that was stopped: its room may be needed
    with atomic_file(tar) as file:
        out = _HashingFile(file)
        for image in task.planned.images:
            _add(task, image, out, contents)
            advance(1)
        out.write(end_of_archive(out.size))
    keys = [row.key for row in contents.index]
    shard = Shard(task.planned.name, len(keys), out.size, out.hexdigest(), hex64(key_sum(keys)))
    write_rows(task.path(".parquet"), contents.catalogue)
    index = task.path(".arrow")
    write_index(index, contents.index)
    hashed = replace(File.of(index.parent, index.name), name=f"shards/{shard.index_name}")
    if keys:  # a shard of rejects only is none
        tar.replace(task.shards / shard.name)
        index.replace(task.shards / shard.index_name)
        fsync_directory(task.shards)
    else:
        tar.unlink()
        index.unlink()
    rejects = [asdict(reject) for reject in contents.rejects]
    write_json(task.record, {"shard": asdict(shard), "index": asdict(hashed), "rejects": rejects})


def _add(task: ShardTask, image: SourceImage, out: _HashingFile, contents: _Contents) -> None:
    try:
        encoded = encode(read_source(task.roots[image.source], image), task.options)
    except ImageError as error:
        contents.rejects.append(Reject(escape(image.path), image.key, str(error)))
        return
    labels = (image.label,)
    size = len(encoded.data)
    contents.index.append(IndexRow(image.key, out.size + BLOCK, size, labels, encoded.width, encoded.height))
    contents.catalogue.append(_catalogue_row(task.planned, image, encoded))
    out.write(member(f"{image.key}.{encoded.suffix}", encoded.data))
    out.write(member(f"{image.key}.cls", b"%d" % image.label))


def _catalogue_row(planned: PlannedShard, image: SourceImage, encoded: EncodedImage) -> CatalogueRow:
    return CatalogueRow(
        key=image.key,
        path=escape(image.path),
        labels=(image.label,),
        size=len(encoded.data),
        width=encoded.width,
        height=encoded.height,
        split=planned.split,
        hash=xxhash.xxh3_64_hexdigest(encoded.data),
        shard=planned.name,
    )
