"""Pass 1, for sources that can only be streamed: every file is read once, and its images, encoded already, are laid
out by the shard that they belong to. Pass 2 then finds each shard's images in a few contiguous pieces.

    spool/stream-000012.bin    runs, each sorted by (split, shard); a run is what was held in memory
    spool/stream-000012.arrow  a row per image, sorted by (split, shard): where in the .bin it lies; written last

Memory: one run per worker. Disk: the encoded images once more, until the dataset is finished.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import duckdb
import numpy as np
import pyarrow as pa
import xxhash

from data_prep.catalog.plan import PlannedShard, PlannedSplit, read_range
from data_prep.catalog.select import limit_memory, plain_path
from data_prep.common.stored import MAKE_AGAIN
from data_prep.options import Options
from data_prep.shards.images import EncodedImage, encode_or_reject
from data_prep.shards.limits import Guard
from data_prep.sources.base import Source
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import atomic_file, remove_abandoned
from pipeline.dataset.images import ImageError

RUN_BYTES: Final = 256 * 2**20
SPLITS: Final = ("all", "train", "val")
_SCHEMA: Final = pa.schema(
    [
        pa.field("split", pa.uint8()),
        pa.field("shard", pa.uint32()),
        pa.field("key", pa.string()),
        pa.field("offset", pa.uint64()),
        pa.field("size", pa.uint32()),
        pa.field("hash", pa.uint64()),  # xxh3-64 of the image as it lies there
        pa.field("suffix", pa.string()),
        pa.field("width", pa.uint32()),
        pa.field("height", pa.uint32()),
        pa.field("reject", pa.string()),
    ]
)


@dataclass(frozen=True)
class Stream:
    """One file that is streamed: rows [start, stop) of plan/streams.parquet."""

    number: int
    source: int
    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class StreamTask:
    """All that a worker needs to stream one file."""

    stream: Stream
    source: Source
    options: Options
    plan: Path
    spool: Path
    poison: dict[str, str]  # key -> why: images that no worker survived
    token: str  # of the command, as another may stream the same file at the same time

    @property
    def record(self) -> Path:
        """The file that is written last."""
        return self.spool / f"stream-{self.stream.number:06d}.arrow"

    @property
    def done(self) -> bool:
        """Whether both files are there."""
        return self.record.exists() and self.record.with_suffix(".bin").exists()

    @property
    def position(self) -> Path:
        """Where the worker notes which image it is at."""
        return self.record.with_suffix(f".{self.token}.at")


def write_streams(plan: Path, splits: list[PlannedSplit], streamed: list[int]) -> list[Stream]:
    """Writes plan/streams.parquet: the rows of the streamed sources, by file, with the shard of each.

    A row at position p of N, dealt to n shards by i*N//n <= p < (i+1)*N//n, is in shard ((p+1)*n - 1) // N.
    """
    with plain_path(plan) as path, duckdb.connect(":memory:") as connection:
        limit_memory(connection, f"{path}/spill")
        parts = [
            f'SELECT source, file, "offset", "key", reject, {SPLITS.index(split.name)} AS split,'
            f" ((file_row_number + 1) * {split.shards} - 1) // {split.samples} AS shard"
            f" FROM read_parquet('{path}/{split.name}.parquet', file_row_number = true)"
            f" WHERE source IN ({', '.join(map(str, streamed))})"
            for split in splits
        ]
        connection.execute(
            f'COPY ({" UNION ALL ".join(parts)} ORDER BY source, file, "offset", "key")'
            f" TO '{path}/streams.parquet' (FORMAT parquet, ROW_GROUP_SIZE 16384)"
        )
        counts = connection.execute(
            f"SELECT source, file, count(*) FROM read_parquet('{path}/streams.parquet')"
            " GROUP BY ALL ORDER BY source, file"
        ).fetchall()
    streams, start = [], 0
    for number, (source, file, count) in enumerate(counts):
        streams.append(Stream(number, source, file, start, start + count))
        start += count
    return streams


@dataclass
class _Run:
    """Encoded images that wait to be written."""

    rows: list[dict] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    bytes: int = 0

    def flush(self, file: BinaryIO, at: int) -> Iterator[dict]:
        """Writes them by shard, from byte `at` on, and yields their rows with the place of each."""
        order = sorted(range(len(self.rows)), key=lambda i: (self.rows[i]["split"], self.rows[i]["shard"], i))
        for i in order:
            file.write(self.data[i])
            hashed = xxhash.xxh3_64_intdigest(self.data[i])
            yield self.rows[i] | {"offset": at, "size": len(self.data[i]), "hash": hashed}
            at += len(self.data[i])


def spool_stream(task: StreamTask, advance: Callable[[int], None]) -> None:
    """Streams one file. `advance` is told of every image of it.

    Raises:
        OSError: something could not be written.
        WorkFailed: the source does not answer. Whatever is wrong with an image only rejects that image.
    """
    table = read_range(task.plan / "streams.parquet", task.stream.start, task.stream.stop)
    waiting = {row["offset"]: row for row in table.to_pylist()}
    done: list[dict] = []
    position = {offset: number for number, offset in enumerate(waiting)}
    spooled = task.record.with_suffix(".bin")
    remove_abandoned(spooled)  # of an attempt that was stopped: its room may be needed
    with (
        atomic_file(spooled) as file,
        Guard(task.position, task.options.max_seconds) as guard,
    ):
        run, at = _Run(), 0
        for offset, data in task.source.stream(task.stream.file):
            row = waiting.pop(offset, None)
            if row is None:
                continue  # filtered out
            guard.at(position[offset])
            image = _encoded(row, data, task)
            run.rows.append(_row(row, image))
            run.data.append(image.data if isinstance(image, EncodedImage) else b"")
            run.bytes += len(run.data[-1])
            advance(1)
            if run.bytes >= RUN_BYTES:
                done += run.flush(file, at)
                run, at = _Run(), at + run.bytes
        done += run.flush(file, at)
    for row in waiting.values():
        gone = row["reject"] or f"not in {task.stream.file} any more"
        done.append(_row(row, ImageError(gone)) | {"offset": 0, "size": 0, "hash": 0})
    task.position.unlink(missing_ok=True)
    done.sort(key=lambda row: (row["split"], row["shard"], row["offset"], row["key"]))
    with atomic_file(task.record) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(done, schema=_SCHEMA).combine_chunks())


def _encoded(row: dict, data: bytes, task: StreamTask) -> EncodedImage | ImageError:
    reason = row["reject"] or task.poison.get(row["key"])
    return ImageError(reason) if reason else encode_or_reject(data, task.options)


def _row(planned: dict, image: EncodedImage | ImageError) -> dict:
    row = {name: planned[name] for name in ("split", "shard", "key")}
    if isinstance(image, ImageError):
        return row | {"suffix": "", "width": 0, "height": 0, "reject": str(image)}
    return row | {"suffix": image.suffix, "width": image.width, "height": image.height, "reject": None}


def collect(records: list[Path], shard: PlannedShard) -> dict[str, EncodedImage | ImageError]:
    """All images of one shard, by key: pass 2 holds one shard in memory. Raises OSError, WorkFailed."""
    found: dict[str, EncodedImage | ImageError] = {}
    wanted = SPLITS.index(shard.split) << 32 | shard.number
    for record in records:
        try:
            with pa.memory_map(str(record)) as mapped, pa.ipc.open_file(mapped) as reader:
                if reader.num_record_batches == 0:
                    continue
                batch = reader.get_batch(0)
                place = batch.column("split").to_numpy().astype(np.uint64) << np.uint64(32)
                place |= batch.column("shard").to_numpy()
                start, stop = np.searchsorted(place, [wanted, wanted + 1])
                rows = batch.slice(start, stop - start).to_pylist()
        except pa.ArrowException as error:
            raise WorkFailed(f"{record}: damaged ({str(error).splitlines()[0]}); {MAKE_AGAIN}") from None
        found |= _load(record.with_suffix(".bin"), rows)
    return found


def _load(path: Path, rows: list[dict]) -> dict[str, EncodedImage | ImageError]:
    """Rows lie in the order of their offsets, so a run's part of a shard is read in one go by the read-ahead."""
    found: dict[str, EncodedImage | ImageError] = {}
    with path.open("rb") as file:
        for row in rows:
            if row["reject"] is not None:
                found[row["key"]] = ImageError(row["reject"])
                continue
            if file.tell() != row["offset"]:
                file.seek(row["offset"])
            data = file.read(row["size"])
            if xxhash.xxh3_64_intdigest(data) != row["hash"]:
                raise WorkFailed(f"{path}: damaged; {MAKE_AGAIN}")
            found[row["key"]] = EncodedImage(data, row["suffix"], row["width"], row["height"])
    return found


def streams_as_json(streams: list[Stream]) -> list[dict]:
    """For plan/streams.json."""
    return [asdict(stream) for stream in streams]
