"""Which classes the labels of all shards are, and each sample's ids among them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from data_prep.adopt.parts import Part
from data_prep.foreign.packed import MAX_CLASSES, Labels
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import LabelKind

NO_LABEL: Final = "no label"


@dataclass(frozen=True)
class Labelling:
    """The class list, and how the labels of the shards are turned into places in it."""

    classes: tuple[str, ...]
    kind: LabelKind
    numbered: bool  # labels are ids already
    labelled: bool  # some sample has a label: then each must have one

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.classes)}

    def ids(self, labels: Labels) -> tuple[int, ...] | None:
        """A sample's class ids; None where it lacks a label."""
        if labels.form == "none":
            return None if self.labelled and not labels.several else ()
        return tuple(int(value) if self.numbered else self._positions[value] for value in labels.values)


def resolve(parts: Sequence[Part], given: tuple[str, ...] | None) -> Labelling:
    """The class list: that which was given; else 0 to the highest number, or the names there are, by their bytes.

    Where no sample has a label, all have none: several labels per image may be, and none is one of these cases.

    Raises:
        UsageError: numbers and names are mixed, or a label is not in the list that was given.
    """
    number, name = (_example(parts, form) for form in ("number", "name"))
    if number and name:
        raise UsageError(f"{number}: its label is a number, that of {name} is a name; write all of them in one way")
    several = any(part.several for part in parts)
    kind: LabelKind = "multi" if several or not (number or name) else "single"
    if number:
        top = max(parts, key=lambda part: part.highest)
        limit = MAX_CLASSES if given is None else len(given)
        if top.highest >= limit:
            what = f"would make {top.highest + 1:,} classes" if given is None else f"the class list has {limit:,}"
            raise UsageError(f"{top.highest_at}: its label is {top.highest}, {what}; give the right --classes FILE")
        return Labelling(given or tuple(map(str, range(top.highest + 1))), kind, numbered=True, labelled=True)
    found = sorted({name for part in parts for name in part.names})
    if given is not None:
        known = set(given)
        unknown = [name for name in found if name not in known]
        if unknown:
            where = next(part.shard for part in parts if unknown[0] in part.names)
            more = f", and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
            raise UsageError(f"{where}: label {unknown[0]!r} is not in the class list{more}; add it to --classes FILE")
    return Labelling(tuple(found) if given is None else given, kind, numbered=False, labelled=bool(name))


def _example(parts: Iterable[Part], form: str) -> str | None:
    return next((part.forms[form] for part in parts if form in part.forms), None)  # type: ignore[index]
