"""Tars as others write them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from data_prep.catalog.samples import Reject
from data_prep.foreign.packed import PackedSample
from tests.datasets import Entry, photo_entry

Member = tuple[str, bytes] | tarfile.TarInfo


def write_tar(path: Path, members: Sequence[Member], how: int = tarfile.USTAR_FORMAT, mtime: float = 0) -> Path:
    """A tar of these members, in this order; a TarInfo is written as it is, without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=how) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return path


def entries(count: int, classes: int = 4, seed: int = 0) -> list[Entry]:
    """Photos; entry i is of class i % classes."""
    return [photo_entry(number, number % classes, (32, 24), seed) for number in range(count)]


def photo(number: int = 0) -> bytes:
    """One JPEG."""
    return photo_entry(number, number % 4, (32, 24), 0).data


def split(found: Sequence[PackedSample | Reject]) -> tuple[list[PackedSample], dict[str, str]]:
    """Samples, and reasons of rejects by source."""
    samples = [item for item in found if isinstance(item, PackedSample)]
    return samples, {item.source: item.reason for item in found if isinstance(item, Reject)}
