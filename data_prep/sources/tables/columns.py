"""Which column of a table is what: by the user's word, else by the usual names."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from data_prep.sources.base import COLUMNS
from data_prep.sources.options import SourceOptions
from pipeline.dataset.errors import UsageError
from pipeline.dataset.names import escape

IMAGE_NAMES: Final = (
    "image", "path", "file", "filename", "url",
    "img", "image_path", "img_path", "file_path", "filepath", "file_name", "image_url", "img_url",
)  # fmt: skip
LABEL_NAMES: Final = ("label", "labels", "class", "cls")
RESERVED: Final = (*COLUMNS.names, "key", "label", "shuffle", "split_hash", "source", "reject")  # a listing's own
BYTES: Final = "bytes"  # the field of Hugging Face's struct


@dataclass(frozen=True)
class Columns:
    """`extra` are passed through into the listing."""

    image: str
    labels: tuple[str, ...]
    key: str | None
    extra: tuple[tuple[str, pa.DataType], ...]

    @property
    def wanted(self) -> list[str]:
        """Those whose cells are looked at, besides the image."""
        return [*self.labels, *([self.key] if self.key else [])]


def choose(present: dict[str, pa.DataType], options: SourceOptions, table: str) -> Columns:
    """The roles of a table's columns. Raises UsageError where one is missing, or several could be it."""
    for name in (*options.labels, options.image, options.key):
        if name is not None and name not in present:
            raise UsageError(f"{table}: no column {escape(name)!r}; it has {_listed(list(present))}")
    image = options.image or _by_name(list(present), IMAGE_NAMES, "image", table, present)
    labels = options.labels or (
        _by_name([name for name in present if name != image], LABEL_NAMES, "labels", table, present),
    )
    if len(set(labels)) < len(labels) or image in labels:
        raise UsageError(f"{table}: a column is named twice; --image and --labels are for different ones")
    taken = {name.lower() for name in (image, *labels, *RESERVED, options.key or "")}
    extra = []
    for name, kind in present.items():
        passed = _passed(kind)
        if name.lower() not in taken and passed is not None:
            extra.append((name, passed))
            taken.add(name.lower())  # SQL does not tell A from a
    return Columns(image, tuple(labels), options.key, tuple(extra))


def is_packed(kind: pa.DataType) -> bool:
    """Whether a column of this type holds encoded images themselves."""
    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and is_packed(kind.field(BYTES).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def class_names(schema: pa.Schema, labels: Sequence[str], table: str) -> tuple[str, ...] | None:
    """What Hugging Face's metadata calls the numbers in the label columns. Raises UsageError where they disagree."""
    found = {names for name in labels if (names := _class_names(schema, name)) is not None}
    if len(found) > 1:
        raise UsageError(f"{table}: the columns {_listed(list(labels))} have different class lists; name one of them")
    return found.pop() if found else None


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        while "names" not in feature:  # a list of labels
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        names = feature["names"]
        return tuple(escape(str(name)) for name in names) if isinstance(names, list) else None
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        return None


def _passed(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a column is passed through; None for what SQL could not compare."""
    if pa.types.is_dictionary(kind):
        return _passed(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    known = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if known or pa.types.is_temporal(kind) or pa.types.is_decimal(kind) else None


def _by_name(free: Sequence[str], names: Sequence[str], option: str, table: str, present: Collection[str]) -> str:
    found = [name for name in free if name.lower() in names]
    if len(found) == 1:
        return found[0]
    problem = f"columns {_listed(found)} may all be it" if found else f"its columns are {_listed(list(present))}"
    raise UsageError(f"{table}: which column is the {option.removesuffix('s')}? {problem}; name it with --{option}")


def _listed(names: Sequence[str]) -> str:
    shown = [escape(name)[:60] for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "") if names else "none"
