"""Which columns of an MDS shard hold image and label, and what a value of an integer column is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.dataset.errors import UsageError
from pipeline.dataset.mds import Column
from pipeline.dataset.names import escape

IMAGE_ENCODINGS: Final = ("jpeg", "png", "bytes")
IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "x")
LABEL_NAMES: Final = ("label", "labels", "cls", "class", "class_id", "target", "y")
INTEGERS: Final = {"int": "<i8"} | {
    f"{kind}int{bits}": f"<{kind or 'i'}{bits // 8}" for kind in ("", "u") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a shard are used."""

    image: Column
    label: Column | None


def choose_columns(columns: Sequence[Column]) -> Columns:
    """The columns that hold image and label: by name, else the only ones whose type fits.

    Raises:
        UsageError: none or several could be the image.
    """
    images = [column for column in columns if column.encoding in IMAGE_ENCODINGS]
    image = _by_name(images, IMAGE_NAMES) or _only([c for c in images if c.encoding != "bytes"]) or _only(images)
    if image is None:
        what = f"no column of type {' or '.join(IMAGE_ENCODINGS)}" if not images else "several columns that may be it"
        raise UsageError(f"no image column: {what} ({shown(columns)}); call it {IMAGE_NAMES[0]}")
    labels = [c for c in columns if c is not image and _is_label(c)]
    label = _by_name(labels, LABEL_NAMES) or _only([c for c in labels if c.encoding in INTEGERS])
    return Columns(image, label)


def shown(columns: Sequence[Column]) -> str:
    """Names and types, for messages."""
    return ", ".join(f"{escape(c.name)[:40]}: {escape(c.encoding)[:40]}" for c in columns)


def _is_label(column: Column) -> bool:
    return column.encoding in (*INTEGERS, "str", "str_int", "json") or column.encoding.partition(":")[0] == "ndarray"


def _by_name(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    found = {column.name.lower(): column for column in columns}
    return next((found[name] for name in names if name in found), None)


def _only(columns: Sequence[Column]) -> Column | None:
    return columns[0] if len(columns) == 1 else None
