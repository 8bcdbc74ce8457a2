"""One shard: tar, index, its part of the catalogue, and last its record, which says that all of it is there.

All is written under the work folder and renamed when it is whole and on disk, so nothing half made is ever seen under
a final name, and a shard without a record is made again from the start, to the same bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import xxhash

from data_prep.catalog.plan import PlannedImage, PlannedShard, read_images
from data_prep.catalog.samples import CatalogueRow, Reject, write_rows
from data_prep.common.prefetch import prefetch
from data_prep.options import Options
from data_prep.shards.images import EncodedImage, encode_or_reject
from data_prep.shards.limits import Guard
from data_prep.shards.spool import collect
from data_prep.shards.tar import TarWriter
from data_prep.sources.base import Source
from pipeline.dataset.files import atomic_file, fsync_directory, remove_abandoned, write_json
from pipeline.dataset.images import ImageError
from pipeline.dataset.index import write_index
from pipeline.dataset.keys import hex64, key_sum
from pipeline.dataset.manifest import File, LabelKind, Shard
from pipeline.dataset.row import IndexRow

FETCHERS: Final = 16  # threads of a worker that wait for a remote source


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    planned: PlannedShard
    sources: tuple[Source, ...]
    options: Options
    labels: LabelKind
    plan: Path  # the folder of the plan's rows
    spooled: tuple[Path, ...]  # records of pass 1, where a source had to be streamed
    poison: dict[str, str]  # key -> why: images that no worker survived
    token: str  # of the command, as another may make the same shard at the same time
    work: Path  # where it grows
    shards: Path  # where it ends up

    def path(self, suffix: str) -> Path:
        """A file of this shard in the work folder."""
        return self.work / self.planned.name.replace(".tar", suffix)

    @property
    def record(self) -> Path:
        """The file whose presence says that the shard is done."""
        return self.path(".json")

    @property
    def position(self) -> Path:
        """Where the worker notes which image it is at."""
        return self.path(f".{self.token}.at")


@dataclass
class _Contents:
    """What has been put into the shard so far."""

    index: list[IndexRow] = field(default_factory=list)
    catalogue: list[CatalogueRow] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def make_shard(task: ShardTask, advance: Callable[[int], None]) -> None:
    """Makes the shard and publishes it. `advance` is told of every image.

    Raises:
        OSError: something could not be written. Whatever is wrong with an image only rejects that image.
        WorkFailed: a source does not answer.
    """
    contents = _Contents()
    tar = task.path(".tar")
    remove_abandoned(tar)  # of an attempt that was stopped: its room may be needed
    with atomic_file(tar) as file, Guard(task.position, task.options.max_seconds) as guard:
        out = TarWriter(file)
        images = list(read_images(task.plan, task.planned))
        for image, encoded in _encoded(images, task, guard):
            _add(task, image, encoded, out, contents)
            advance(1)
        out.close()
    _publish(task, contents, out.size, out.hexdigest())


def _publish(task: ShardTask, contents: _Contents, size: int, xxh3: str) -> None:
    """Index and catalogue beside the tar, then all under their final names, then the record."""
    keys = [row.key for row in contents.index]
    shard = Shard(task.planned.name, len(keys), size, xxh3, hex64(key_sum(keys)))
    write_rows(task.path(".parquet"), contents.catalogue)
    tar, index = task.path(".tar"), task.path(".arrow")
    write_index(index, contents.index)
    hashed = replace(File.of(index.parent, index.name), name=f"shards/{shard.index_name}")
    if keys:  # a shard of rejects only is none
        tar.replace(task.shards / shard.name)
        index.replace(task.shards / shard.index_name)
        fsync_directory(task.shards)
    else:
        tar.unlink()
        index.unlink()
    task.position.unlink(missing_ok=True)
    rejects = [asdict(reject) for reject in contents.rejects]
    write_json(task.record, {"shard": asdict(shard), "index": asdict(hashed), "rejects": rejects})


def _encoded(
    images: list[PlannedImage], task: ShardTask, guard: Guard
) -> Iterator[tuple[PlannedImage, EncodedImage | ImageError]]:
    """Every image, encoded, or why not, in order."""
    spooled = collect(list(task.spooled), task.planned) if task.spooled else {}
    read = [i for i in images if not (i.reject or i.key in task.poison or i.key in spooled)]
    fetched = _fetched(read, task.sources)
    for position, image in enumerate(images):
        if image.key in spooled:
            yield image, spooled.pop(image.key)
            continue
        reason = image.reject or task.poison.get(image.key)
        if reason:
            yield image, ImageError(reason)
            continue
        data = next(fetched)
        guard.at(position)  # its clock starts once the bytes are here: a slow source is no slow image
        yield image, data if isinstance(data, ImageError) else encode_or_reject(data, task.options)


def _fetched(images: list[PlannedImage], sources: tuple[Source, ...]) -> Iterator[bytes | ImageError]:
    """Their bytes, in order; remote ones are read ahead."""
    start = 0
    while start < len(images):
        source = images[start].source
        stop = start + 1
        if sources[source].remote:
            while stop < len(images) and images[stop].source == source:
                stop += 1
            yield from prefetch(sources[source], [image.place for image in images[start:stop]], FETCHERS)
        else:
            try:
                yield sources[source].read(images[start].place)
            except ImageError as error:
                yield error
        start = stop


def _add(
    task: ShardTask, image: PlannedImage, encoded: EncodedImage | ImageError, out: TarWriter, contents: _Contents
) -> None:
    if isinstance(encoded, ImageError):
        contents.rejects.append(Reject(image.path, image.key, str(encoded)))
        return
    if task.labels == "single":
        label = f"{image.key}.cls", b"%d" % image.labels[0]
    else:
        label = f"{image.key}.json", b'{"labels": [%s]}' % b", ".join(b"%d" % i for i in image.labels)
    offset = out.add((f"{image.key}.{encoded.suffix}", encoded.data), label)
    row = IndexRow(image.key, offset, len(encoded.data), image.labels, encoded.width, encoded.height)
    contents.index.append(row)
    contents.catalogue.append(_catalogue_row(task.planned, image, encoded))


def _catalogue_row(planned: PlannedShard, image: PlannedImage, encoded: EncodedImage) -> CatalogueRow:
    return CatalogueRow(
        key=image.key,
        path=image.path,
        labels=image.labels,
        size=len(encoded.data),
        width=encoded.width,
        height=encoded.height,
        split=planned.split,
        hash=xxhash.xxh3_64_hexdigest(encoded.data),
        shard=planned.name,
    )
