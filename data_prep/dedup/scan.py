"""The one pass over the shards: each gives a part, a Parquet file of its hashes, by which the pass can be resumed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.common.workers import Advance, WorkerDied, Workers
from data_prep.dedup.corpus import Corpus, open_index
from data_prep.dedup.hashes import SCHEMA, VERSION, Hashes, as_table, hash_image, one_thread
from pipeline.dataset.containers import Unreadable, open_shard
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import atomic_file
from pipeline.dataset.manifest import Container, Shard

_STAMP = b"vitstream.dedup"


@dataclass(frozen=True)
class ScanTask:
    """One shard of a dataset."""

    folder: Path
    container: Container
    shard: Shard
    max_pixels: int
    exact_only: bool
    part: Path

    @property
    def stamp(self) -> bytes:
        """What a part has to be of: this very shard, these very images in it, these hashes."""
        shard = self.shard
        return json.dumps(
            [VERSION, self.exact_only, shard.xxh3, shard.key_sum, shard.samples, self.max_pixels]
        ).encode()


def tasks_of(corpus: Corpus, exact_only: bool, folder: Path) -> list[ScanTask]:
    """A task per shard, whose parts lie in `folder`."""
    manifest, max_pixels = corpus.manifest, corpus.max_pixels
    parts = (folder / f"{number:06d}.parquet" for number in range(len(manifest.shards)))
    return [
        ScanTask(corpus.folder, manifest.container, shard, max_pixels, exact_only, part)
        for shard, part in zip(manifest.shards, parts, strict=True)
    ]


def is_done(task: ScanTask) -> bool:
    """Whether the shard has its part already, made from what it holds now."""
    try:
        with task.part.open("rb") as file:
            said = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        return False
    return (said.metadata or {}).get(_STAMP) == task.stamp and said.remove_metadata() == SCHEMA


def scan(tasks: list[ScanTask], pool: Workers, advance: Advance) -> None:
    """Makes the parts. Raises WorkFailed, OSError."""

    def crashed(task: ScanTask, death: WorkerDied) -> Any:
        advice = f"see: vitstream verify {task.folder}"
        raise WorkFailed(f"{task.folder}: a worker process that read {task.shard.name} {death.how}; {advice}")

    for _ in pool.run(_hash_shard, tasks, advance, crashed):
        pass


def read_parts(tasks: list[ScanTask]) -> Hashes:
    """All hashes of a dataset, in its order. Raises WorkFailed where a part is damaged."""
    hashes, start = Hashes.empty(sum(task.shard.samples for task in tasks)), 0
    for task in tasks:
        try:
            with task.part.open("rb") as file:
                table = pq.read_table(file)
            if table.num_rows != task.shard.samples:
                raise pa.ArrowInvalid("rows are missing")
            hashes.fill(start, table)
        except (OSError, pa.ArrowException):
            raise WorkFailed(f"{task.part}: damaged; delete it, and run the same command again") from None
        start += table.num_rows
    return hashes


def _hash_shard(task: ScanTask, advance: Advance) -> None:
    """In a worker. Raises WorkFailed where an image is not where its index says."""
    one_thread()
    index = open_index(task.folder, task.shard)
    found = []
    file = open_shard(task.container, task.folder / "shards" / task.shard.name)
    try:
        for position in range(len(index)):
            row = index.row(position)
            data = file.read(row).data
            found.append(hash_image(data, task.max_pixels, task.exact_only))
            advance(1)
    except Unreadable as error:
        where = f"{task.folder}: {task.shard.name}: image {row.key}"
        raise WorkFailed(f"{where}: {error}; see: vitstream verify {task.folder}") from None
    finally:
        file.close()
    table = as_table(index.keys(), found)
    with atomic_file(task.part) as part:
        pq.write_table(table.replace_schema_metadata({_STAMP: task.stamp}), part)
