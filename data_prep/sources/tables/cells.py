"""What one cell of a table says: an image's place, or its labels."""

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from data_prep.foreign.packed import NO_LABELS, LabelError, Labels, from_value
from pipeline.dataset.names import escape
from pipeline.dataset.remote.urls import SCHEMES, is_url, join, public, scheme_of

_PLAIN: Final = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)  # a path that is its own escape: nearly all
_NUMBER: Final = re.compile("0|[1-9][0-9]{0,18}")


class Located(NamedTuple):
    """An image's name in the listing, and where to read it; or why not."""

    path: str
    file: str
    reject: str | None = None


def locate(cell: Any, base: str) -> Located:
    """Where the image is that a cell of a table in the folder or at the URL `base` names.

    A table may name anything that its user can reach by a URL or an absolute path. But a path from the table's own
    folder stays in it; and a table from elsewhere never names a local file.
    """
    if not isinstance(cell, str) or not cell.strip():
        return Located("", "", "no image")
    if _PLAIN.fullmatch(cell):
        return Located(cell, join(base, cell) if is_url(base) else cell)
    if is_url(cell):
        refused = None if scheme_of(cell) in SCHEMES else "not a URL that can be read"
        return Located(public(cell), escape(cell), refused)
    parts = [part for part in cell.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        return Located(escape(cell), "", "leads out of the table's folder")
    if cell.startswith("/"):
        refused = "a local path in a remote table" if is_url(base) else None
        return Located(escape(cell), escape(cell), refused)
    path = "/".join(parts)
    return Located(escape(path), escape(join(base, path) if is_url(base) else path))


def labels_of(cells: Sequence[Any], text: bool, numbered: bool | None) -> Labels:
    """The labels in the cells of one row's label columns, together.

    Args:
        text: the cells are text, whatever they stand for.
        numbered: whether digits in a text are a number, or a name; None where that is not known yet.

    Raises:
        LabelError: they are none.
    """
    every = [
        _labels(cell, text, numbered) if isinstance(cell, list) else _remembered(cell, text, numbered) for cell in cells
    ]
    if len(every) == 1:
        return every[0]
    forms = {labels.form for labels in every} - {"none"}
    values = tuple(value for labels in every for value in labels.values)
    if len(forms) > 1:
        raise LabelError("its labels are neither all numbers nor all names")
    if len(set(values)) < len(values):
        raise LabelError("has a label twice")
    return Labels(forms.pop(), values, several=True) if forms else NO_LABELS


@lru_cache(maxsize=2**17, typed=True)  # 1 is not 1.0 here
def _remembered(cell: Any, text: bool, numbered: bool | None) -> Labels:
    """There are far fewer labels than images."""
    return _labels(cell, text, numbered)


def _labels(cell: Any, text: bool, numbered: bool | None) -> Labels:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return NO_LABELS
    if isinstance(cell, float):  # what becomes of numbers where some are missing
        if math.isnan(cell):
            return NO_LABELS
        cell = int(cell) if cell.is_integer() else cell
    if cell == -1 and not text:  # Hugging Face's way to say that there is none
        return NO_LABELS
    if not (text and isinstance(cell, str)):
        return from_value(cell)
    cell = cell.strip()
    if cell.startswith("[") and cell.endswith("]"):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            raise LabelError(f'label {cell[:40]!r} is no list; write ["a", "b"] or [1, 2]') from None
        return from_value(values)
    if numbered is not False and cell == "-1":  # among numbers
        return NO_LABELS
    if numbered is not False and _NUMBER.fullmatch(cell):
        return from_value(int(cell))
    return from_value(cell)
