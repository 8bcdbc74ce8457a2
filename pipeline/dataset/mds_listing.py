"""What lies in an MDS folder: its index.json, as mosaicml-streaming writes it, and our classes.json."""

import json
from dataclasses import dataclass
from typing import Any, Final

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import is_plain_name
from pipeline.dataset.mds import Column, MdsError, columns_of
from pipeline.dataset.names import one_line

INDEX_NAME: Final = "index.json"
CLASSES_NAME: Final = "classes.json"  # ours: the names behind the numbers
HASH_NAME: Final = "xxh3_64"  # of the hashes that a shard may have, the one by which we check copies


@dataclass(frozen=True)
class Entry:
    """One shard. Paths lie inside the folder, and are '/'-separated: a merged index has folders in them."""

    path: str
    samples: int
    bytes: int
    hashes: tuple[tuple[str, str], ...]  # (algorithm, hex digits), sorted
    packed_path: str | None  # where a compressed form of it is listed
    compression: str | None
    columns: tuple[Column, ...] | None  # where they are listed

    @property
    def name(self) -> str:
        """As a plain file name: folders are joined with '--'."""
        return self.path.replace("/", "--")


def parse_index(text: bytes, place: object) -> list[Entry]:
    """The shards of the index.json that lies at `place`, in order.

    Raises:
        UsageError: damaged, of another version or format, or it names files outside the folder.
    """
    seen: dict[str, tuple[Column, ...]] = {}  # shards nearly always have the same columns
    try:
        body = json.loads(text)
        if body["version"] != 2:
            raise UsageError(f"{place}: MDS version {str(body['version'])[:20]}, this vitstream reads 2")
        entries = [_entry(entry, place, seen) for entry in body["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MdsError):
        raise UsageError(f"{place}: no index of an MDS folder, or a damaged one") from None
    if not entries:
        raise UsageError(f"{place}: names no shards")
    return entries


def parse_classes(text: bytes, place: object) -> tuple[str, ...]:
    """The class names that `vitstream convert` left beside the shards: escaped already, as in a manifest.

    Raises:
        UsageError: damaged.
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{place}: damaged; it is a list of class names") from None
    texts = isinstance(names, list) and all(isinstance(name, str) and one_line(name) == name for name in names)
    if not texts or len(set(names)) < len(names):
        raise UsageError(f"{place}: damaged; it is a list of class names, each once, each one line")
    return tuple(names)


def _entry(entry: dict[str, Any], place: object, seen: dict[str, tuple[Column, ...]]) -> Entry:
    """Raises UsageError, and whatever else a damaged one is answered with."""
    raw, packed = entry["raw_data"], entry.get("zip_data")
    if entry["format"] != "mds":
        raise UsageError(f"{place}: shards of format {str(entry['format'])[:20]}; only mds can be used")
    paths = [raw["basename"], *([packed["basename"]] if packed else [])]
    for path in paths:
        if not isinstance(path, str) or not all(is_plain_name(part) for part in path.split("/")):
            raise UsageError(f"{place}: {str(path)[:80]!r} is no file inside the folder")
    samples, size, hashes = entry["samples"], raw["bytes"], raw.get("hashes") or {}
    if not all(type(number) is int and 0 <= number < 2**53 for number in (samples, size)):
        raise TypeError
    columns = None
    if "column_names" in entry:
        lists = json.dumps([entry.get(f"column_{what}") for what in ("names", "encodings", "sizes")])
        columns = seen.get(lists) or seen.setdefault(lists, columns_of(entry))
    return Entry(
        path=paths[0],
        samples=samples,
        bytes=size,
        hashes=tuple(sorted((str(name), str(value)) for name, value in hashes.items())),
        packed_path=paths[1] if packed else None,
        compression=str(entry.get("compression"))[:20] if packed else None,
        columns=columns,
    )
