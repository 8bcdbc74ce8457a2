"""What every kind of source has in common: it lists its images in batches, and hands out their bytes.

A listing is a stream of Arrow batches, so that a corpus never has to fit in memory. Its columns are those of
`COLUMNS`, and any others that the source knows of (a table's remaining columns), for `--where`. A column `reject`
(string, null where all is well) says of an image that it is known already why it cannot be used.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

ROWS_PER_BATCH = 16_384
UNKNOWN_BYTES = -1
COLUMNS = pa.schema(
    [
        # The image's own name, unique in its source, escaped as names.py says: its key is the hash of it. A name that
        # is a key already (24 hex digits, as in a dataset of ours) is its own key.
        pa.field("path", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),  # names, or numbers as text; empty: not labelled
        pa.field("bytes", pa.int64(), nullable=False),  # of the image as it lies there; UNKNOWN_BYTES
        pa.field("file", pa.string(), nullable=False),  # what holds it, in the source's own words, escaped
        pa.field("offset", pa.int64(), nullable=False),  # where in it: first byte, or row, in the source's own terms
    ]
)


@dataclass(frozen=True)
class Place:
    """Where an image lies: one row of a listing, as `read` wants it."""

    file: str
    offset: int
    bytes: int


class Source(ABC):
    """One SOURCE of the command line. Small and picklable: it travels to worker processes.

    Attributes:
        name: what dataset.json calls it: no folder of this machine, no credentials.
        streamed: images can only be had in the order in which they lie, file by file (`stream`); else one by one
            (`read`).
        remote: `read` waits for a network, so several are worth asking for at once.
        numbered: labels are numbers, which are the classes' ids; else names.
        multi: an image may have any number of labels.
        class_names: the names behind the numbers, where the source knows them.
        untyped: its further columns are text, also where they hold numbers, as in a CSV.
    """

    name: str
    streamed: bool = False
    remote: bool = False
    numbered: bool = False
    multi: bool = False
    class_names: tuple[str, ...] | None = None
    untyped: bool = False

    @abstractmethod
    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        """The listing, in the same order every time; `ignored` counts what was passed over, by kind.

        Raises:
            UsageError: the source is missing, unreadable or contradicts itself.
            WorkFailed: a remote source does not answer.
        """

    # Of the next two a source has the one that goes with `streamed`: a tar both, as it may be compressed.

    def read(self, place: Place) -> bytes:
        """An image's bytes, where it is not `streamed`.

        Raises:
            ImageError: this image cannot be had, now or later: it is rejected.
            WorkFailed: the source does not answer; trying again later may help.
        """
        raise TypeError(f"{type(self).__name__} is streamed: it has no single images to read")

    def stream(self, file: str) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of every listed image of one file, as they lie, where it is `streamed`. Raises WorkFailed."""
        raise TypeError(f"{type(self).__name__} is read image by image")
