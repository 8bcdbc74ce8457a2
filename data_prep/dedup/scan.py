"""The one pass over the shards: each gives a part, a Parquet file of its hashes, by which the pass can be resumed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dedup.corpus import Corpus
from data_prep.dedup.hashes import SCHEMA, VERSION, Hashes, as_table, from_tables, hash_image, one_thread
from data_prep.keylists import pack
from data_prep.workers import Advance, WorkerDied, Workers
from pipeline.dataset.containers import Unreadable, open_shard
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import atomic_file

_STAMP = b"vitstream.dedup"


@dataclass(frozen=True)
class ScanTask:
    """One shard of a dataset."""

    corpus: Corpus
    number: int  # of the shard
    exact_only: bool
    part: Path

    def __hash__(self) -> int:
        return hash(self.part)

    @property
    def stamp(self) -> bytes:
        """What a part has to be of: this very shard, these very images in it, these hashes."""
        shard = self.corpus.manifest.shards[self.number]
        what = [VERSION, self.exact_only, shard.xxh3, shard.key_sum, shard.samples, self.corpus.max_pixels]
        return json.dumps(what).encode()


def tasks_of(corpus: Corpus, exact_only: bool, folder: Path) -> list[ScanTask]:
    """A task per shard, whose parts lie in `folder`."""
    shards = range(len(corpus.manifest.shards))
    return [ScanTask(corpus, number, exact_only, folder / f"{number:06d}.parquet") for number in shards]


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
        shard = task.corpus.manifest.shards[task.number].name
        advice = f"see: vitstream verify {task.corpus.folder}"
        raise WorkFailed(f"{task.corpus.folder}: a worker process that read {shard} {death.how}; {advice}")

    for _ in pool.run(_hash_shard, tasks, advance, crashed):
        pass


def read_parts(tasks: list[ScanTask]) -> Hashes:
    """All hashes of a dataset, in its order. Raises WorkFailed where a part is damaged."""
    tables = []
    for task in tasks:
        try:
            with task.part.open("rb") as file:
                tables.append(pq.read_table(file).replace_schema_metadata())
        except (OSError, pa.ArrowException):
            raise WorkFailed(f"{task.part}: damaged; delete it, and run the same command again") from None
    return from_tables(tables)


def _hash_shard(task: ScanTask, advance: Advance) -> None:
    """In a worker. Raises WorkFailed where an image is not where its index says."""
    one_thread()
    corpus, shard = task.corpus, task.corpus.manifest.shards[task.number]
    index = corpus.index(shard)
    found = []
    file = open_shard(corpus.manifest.container, corpus.folder / "shards" / shard.name)
    try:
        for position in range(len(index)):
            row = index.row(position)
            data = file.read(row).data
            found.append(hash_image(data, corpus.max_pixels, task.exact_only))
            advance(1)
    except Unreadable as error:
        message = f"{corpus.folder}: {shard.name}: image {row.key}: {error}; see: vitstream verify {corpus.folder}"
        raise WorkFailed(message) from None
    finally:
        file.close()
    table = as_table(pack(pa.array(index.keys(), pa.string())), found)
    with atomic_file(task.part) as part:
        pq.write_table(table.replace_schema_metadata({_STAMP: task.stamp}), part)
