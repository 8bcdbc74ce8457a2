"""What a source lists, as plain rows, and what it hands out."""

from collections import Counter

from data_prep.sources import open_sources
from data_prep.sources.base import COLUMNS, Place, Source
from data_prep.sources.options import SourceOptions
from pipeline.dataset.images import ImageError


def opened(*names, **options) -> Source:
    (source,) = open_sources([str(name) for name in names], SourceOptions(**options))
    return source


def rows(source: Source) -> list[dict]:
    """All rows, once it is seen that they have the agreed columns."""
    found = []
    for batch in source.batches(Counter()):
        assert [batch.schema.field(name).type for name in COLUMNS.names] == [field.type for field in COLUMNS]
        found += batch.to_pylist()
    return found


def ignored(source: Source) -> dict[str, int]:
    counted = Counter()
    for _ in source.batches(counted):
        pass
    return dict(counted)


def read_all(source: Source) -> dict[str, bytes | str]:
    """The bytes of every image by its path, or why there are none."""
    listed = rows(source)
    found = {row["path"]: row["reject"] for row in listed if row.get("reject")}
    usable = [row for row in listed if not row.get("reject")]
    if source.streamed:
        for file in dict.fromkeys(row["file"] for row in usable):
            images = dict(source.stream(file))
            found |= {row["path"]: images[row["offset"]] for row in usable if row["file"] == file}
        return found
    for row in usable:
        try:
            found[row["path"]] = source.read(Place(row["file"], row["offset"], row["bytes"]))
        except ImageError as error:
            found[row["path"]] = str(error)
    return found
