"""Labelled images as others pack them, in tars or MDS shards, before it is known which classes there are.

A label is kept as it was written: a name, or a number, which is a class's id.
"""

import json
import re
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.dataset.names import escape

MAX_IMAGE_BYTES: Final = 512 * 2**20
MAX_LABEL_BYTES: Final = 2**20  # of a .json: captions and the like may be in it
MAX_CLASSES: Final = 10_000_000  # of numbers without a list
MAX_NAME_CHARACTERS: Final = 1000
JSON_KEYS: Final = ("label", "labels", "cls", "class_id")
LabelForm = Literal["none", "number", "name"]


class LabelError(Exception):
    """A label that cannot be used; the message is the reason, in one line."""


@dataclass(frozen=True)
class Labels:
    """A sample's labels, as text: numbers in decimal, names escaped as names.py says. `several`: written as a list."""

    form: LabelForm
    values: tuple[str, ...] = ()
    several: bool = False


NO_LABELS: Final = Labels("none")


@dataclass(frozen=True)
class PackedSample:
    """One sample of a shard of others. Its image is bytes [offset, offset + size) of the file."""

    name: str  # SHARD/its own name, escaped: what samples.parquet calls its path
    key: str
    offset: int
    size: int
    labels: Labels
    width: int  # upright
    height: int
    hash: str  # xxh3-64 of the image's bytes


def from_cls(data: bytes) -> Labels:
    """What a .cls member says: a number or a name. Raises LabelError."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise LabelError("label is no UTF-8 text") from None
    return from_value(int(text) if re.fullmatch("-?[0-9]{1,20}", text) else text)


def from_json(data: bytes) -> Labels:
    """What a .json member says: the first of JSON_KEYS that it has; NO_LABELS where it has none. Raises LabelError."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise LabelError("its .json is damaged") from None
    found = [key for key in JSON_KEYS if isinstance(body, dict) and body.get(key) is not None]
    return from_value(body[found[0]]) if found else NO_LABELS


def from_value(value: object) -> Labels:
    """A number, a name, or a list of either. Raises LabelError."""
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)  # perhaps so deep that no recursion ends
        values = [] if nested else [from_value(item) for item in value]
        forms = {labels.form for labels in values}
        if nested or len(forms) > 1:
            raise LabelError("its labels are neither all numbers nor all names")
        texts = tuple(text for labels in values for text in labels.values)
        if len(set(texts)) < len(texts):
            raise LabelError("has a label twice")
        return Labels(forms.pop() if forms else "none", texts, several=True)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**32:
            raise LabelError(f"label {str(value)[:30]} is no class id")
        return Labels("number", (str(value),))
    if isinstance(value, str):
        if not value.strip() or len(value) > MAX_NAME_CHARACTERS:
            raise LabelError("label is empty" if not value.strip() else "label is no class name: too long")
        return Labels("name", (escape(value.strip()),))
    raise LabelError("label is neither a number nor a name")
