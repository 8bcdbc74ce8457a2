"""The listing: a row per image of every source, in Parquet, with the key and the hashes that place it.

Written once, in a stream; everything after it is SQL over these files, so no part of a corpus has to fit in memory.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.sources.base import COLUMNS, Source
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import KEY_DIGITS, keyed_hash, sample_key
from pipeline.dataset.names import to_bytes, unescape

SPLIT_SEED: Final = 0x73706C6974  # "split": a hash of its own, so that the shuffle's seed does not move a split
OWN_COLUMNS: Final = ("key", "shuffle", "split_hash", "source", "reject")
_MASK128: Final = (1 << 128) - 1
_IS_KEY: Final = re.compile(rf"(?:.*/)?([0-9a-f]{{{KEY_DIGITS}}})", re.DOTALL)


@dataclass(frozen=True)
class Listed:
    """What was listed: how many, of which content, and what was passed over."""

    images: int
    digest: str
    ignored: dict[str, int]


def key_of(path: str) -> str:
    """The key of an escaped path: its hash, but what is a key already is kept (base.py)."""
    found = _IS_KEY.fullmatch(path)
    return found[1] if found else sample_key(unescape(path) if "\\" in path else path)


class Digest:
    """A hash of a listing that does not depend on its order: the sum of 128-bit hashes of its rows."""

    def __init__(self) -> None:
        self._sum = 0
        self.rows = 0

    def add(self, paths: Sequence[str], sizes: Sequence[int], labels: Sequence[Sequence[str]]) -> None:
        """Adds rows: equal digests mean the same names, sizes and labels."""
        hashed = xxhash.xxh3_128_intdigest
        total = 0
        for path, size, names in zip(paths, sizes, labels, strict=True):
            total += hashed(b"%s\0%d\0%s" % (to_bytes(path), size, to_bytes("\0".join(names))))
        self._sum = (self._sum + total) & _MASK128
        self.rows += len(paths)

    def hexdigest(self) -> str:
        """32 hex digits."""
        return f"{self._sum:032x}"


def digest(sources: Sequence[Source]) -> Listed:
    """Lists the sources only to see whether they are what they were."""
    found, ignored = Digest(), Counter[str]()
    for source in sources:
        for batch in source.batches(ignored):
            found.add(*(batch.column(name).to_pylist() for name in ("path", "bytes", "labels")))
    return Listed(found.rows, found.hexdigest(), dict(ignored))


def write_listing(sources: Sequence[Source], folder: Path, seed: int) -> Listed:
    """Writes FOLDER/source-N.parquet for each source.

    Raises:
        UsageError: a source cannot be used, or holds no images.
        WorkFailed: a remote source does not answer.
    """
    found, ignored = Digest(), Counter[str]()
    for number, source in enumerate(sources):
        before = found.rows
        writer: pq.ParquetWriter | None = None
        with (folder / f"source-{number:04d}.parquet").open("wb") as file, ExitStack() as stack:
            for batch in _keyed(source.batches(ignored), number, seed, found):
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(file, batch.schema))
                writer.write_batch(batch)
            if found.rows == before:
                raise UsageError(f"{source.name}: no images in it")
    return Listed(found.rows, found.hexdigest(), dict(ignored))


def _keyed(batches: Iterator[pa.RecordBatch], source: int, seed: int, found: Digest) -> Iterator[pa.RecordBatch]:
    """The batches with OWN_COLUMNS added."""
    for batch in batches:
        paths = batch.column("path").to_pylist()
        found.add(paths, batch.column("bytes").to_pylist(), batch.column("labels").to_pylist())
        keys = list(map(key_of, paths))
        extra = [name for name in batch.schema.names if name not in COLUMNS.names and name not in OWN_COLUMNS]
        columns = {name: batch.column(name) for name in (*COLUMNS.names, *extra)}
        rejects = batch.column("reject") if "reject" in batch.schema.names else pa.nulls(len(keys), pa.string())
        columns |= {
            "key": pa.array(keys, pa.string()),
            "shuffle": pa.array([keyed_hash(key, seed) for key in keys], pa.uint64()),
            "split_hash": pa.array([keyed_hash(key, SPLIT_SEED) for key in keys], pa.uint64()),
            "source": pa.array([source] * len(keys), pa.uint16()),
            "reject": rejects,
        }
        yield pa.RecordBatch.from_pydict(columns)
