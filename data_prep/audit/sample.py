"""The audit of one sample, whatever it is packed in: the shard's truth against index and catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.audit.finding import Audit
from data_prep.catalog.samples import CATALOGUE_NAME
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import open_regular
from pipeline.dataset.images import ImageError, decode, read_header
from pipeline.dataset.keys import is_key, sample_key
from pipeline.dataset.names import escape, unescape
from pipeline.dataset.row import IndexRow

UNREADABLE = (WorkFailed, pa.ArrowException, OSError, ValueError, TypeError)  # by what a damaged file raises


@dataclass(frozen=True)
class Said:
    """What index and catalogue say of a sample; None where they say nothing."""

    row: IndexRow | None
    catalogued: Mapping[str, Any] | None


class Expected:
    """What is said of a shard's samples, in its order.

    In a shard that the dataset uses as a whole, sample i is row i. Otherwise a sample is looked for by its place, and
    one that is nowhere listed is none of the dataset's.
    """

    def __init__(self, audit: Audit, rows: Sequence[IndexRow]) -> None:
        task = audit.task
        self.rows = rows
        self._whole = task.container == "webdataset" and not task.partial
        self._places = {row.offset: position for position, row in enumerate(rows)}
        self._catalogue = _catalogue_rows(audit) if task.catalogued else None
        self._seen = bytearray(len(rows))
        self._count = 0

    def next(self, offset: int) -> Said | None:
        """What is said of the next sample of the shard, whose image lies there; None where it is not the dataset's."""
        position = self._count if self._whole else self._places.get(offset, -1)
        self._count += 1
        if 0 <= position < len(self.rows):
            self._seen[position] = True
            rows = self._catalogue
            return Said(self.rows[position], rows[position] if rows and position < len(rows) else None)
        return Said(None, None) if self._whole else None

    def finish(self, audit: Audit) -> None:
        """Notes what the shard does not hold."""
        if self._whole:
            if self.rows and self._count != len(self.rows):
                audit.add(f"{self._count:,} whole samples in the tar, {len(self.rows):,} in its index")
            return
        for row, seen in zip(self.rows, self._seen, strict=True):
            if not seen:
                audit.add(f"is not at byte {row.offset:,}, where its index says", row.key)


def check_sample(audit: Audit, said: Said, key: str, offset: int, data: bytes, labels: tuple[int, ...] | None) -> None:
    """Checks an image, and all that is said of it, against what lies in the shard; `labels` None: there are none."""
    row = said.row
    if labels is not None and any(value >= len(audit.task.classes) for value in labels):
        audit.add(f"label {list(labels)}, but there are {len(audit.task.classes)} classes", key)
    try:
        header = read_header(data, audit.task.max_pixels)
        if audit.task.decoding.takes(key):
            decode(data, header, min_width=1, min_height=1)  # at 1/8: every byte is parsed all the same
        size = (header.width, header.height)
    except ImageError as error:
        audit.add(f"image cannot be decoded: {error}", key)
        size = (row.width, row.height) if row else (0, 0)
    truth = IndexRow(key, offset, len(data), labels or (), *size)
    if row is not None and row != truth:
        names = [name for name in IndexRow.__annotations__ if getattr(row, name) != getattr(truth, name)]
        differs = ", ".join(f"{name} {getattr(row, name)} instead of {getattr(truth, name)}" for name in names)
        audit.add(f"its index says {differs}", key)
    if said.catalogued is not None:
        _compare(audit, said.catalogued, truth, data)


def _catalogue_rows(audit: Audit) -> list[dict[str, Any]] | None:
    """This shard's row group, or None where it cannot be read."""
    try:
        with open_regular(audit.task.dataset / CATALOGUE_NAME) as opened, pq.ParquetFile(opened) as file:
            return file.read_row_group(audit.task.number).to_pylist()
    except (*UNREADABLE, IndexError) as error:
        audit.add(f"its rows of {CATALOGUE_NAME} cannot be read: {first_line(error)}")
        return None


def _compare(audit: Audit, said: Mapping[str, Any], truth: IndexRow, image: bytes) -> None:
    """Compares a row of the catalogue, every column of it, with the sample."""
    expected: dict[str, object] = {
        "key": truth.key,
        "labels": list(truth.labels),
        "size": len(image),
        "width": truth.width,
        "height": truth.height,
        "split": audit.task.split,
        "hash": xxhash.xxh3_64_hexdigest(image),
        "shard": audit.task.shard.name,
    }
    differs = [
        f"{name} {said.get(name)} instead of {value}" for name, value in expected.items() if said.get(name) != value
    ]
    if not _belongs(str(said.get("path")), truth.key):
        differs.append(f"path {said.get('path')}, which has another key")
    if differs:
        audit.add(f"{CATALOGUE_NAME} says {', '.join(differs)}", truth.key)


def _belongs(path: str, key: str) -> bool:
    """Whether an escaped path is the one that a sample's key was taken from: its hash, or a key that it ends with."""
    last = path.rpartition("/")[2]
    try:
        name = unescape(path)
        return escape(name) == path and (last if is_key(last) else sample_key(name)) == key
    except (UnicodeError, IndexError):
        return False


def first_line(error: Exception) -> str:
    """An error of a library, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
