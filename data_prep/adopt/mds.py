"""One MDS shard of others: its rows as samples."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.adopt.tar import read_sample
from data_prep.catalog.samples import Reject
from data_prep.foreign.packed import LabelError, PackedSample
from data_prep.mds.reader import rows
from pipeline.dataset.images import ImageError
from pipeline.dataset.keys import own_key
from pipeline.dataset.mds import MdsShard
from pipeline.dataset.mds_columns import choose_columns
from pipeline.dataset.names import escape


def scan_mds(path: Path, name: str) -> Iterator[PackedSample | Reject]:
    """Every sample of the shard at `path`, which the dataset calls `name`, in order.

    Raises:
        MdsError: damaged.
        UsageError: no image column.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = MdsShard.read(fd)
        for row in rows(name, fd, head, choose_columns(head.columns)):
            by_place = row.key == own_key(name, str(row.number))  # else the key is the sample's own, and its name
            own = escape(f"{name}/{row.number if by_place else row.key}")
            try:
                if isinstance(row.labels, LabelError):
                    raise row.labels
                yield read_sample(fd, own, row.key, row.image.offset, row.image.size, row.labels)
            except (ImageError, LabelError) as error:
                yield Reject(own, row.key, str(error))
    finally:
        os.close(fd)
