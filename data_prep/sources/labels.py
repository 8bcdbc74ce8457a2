"""Whether a source writes its labels as numbers or as names, one or several: its first samples say it for all."""

from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.foreign.packed import Labels


@dataclass(frozen=True)
class LabelStyle:
    """How one source writes labels."""

    numbered: bool = False
    multi: bool = False

    @classmethod
    def of(cls, seen: Iterable[Labels]) -> "LabelStyle":
        """The style of these samples: numbers where all of them are."""
        seen = list(seen)
        forms = {labels.form for labels in seen} - {"none"}
        return cls(forms == {"number"}, any(labels.several for labels in seen))

    def refusal(self, labels: Labels) -> str | None:
        """Why a sample with these labels cannot be used here, or None. An empty list is a label of no class."""
        if labels.form == "none":
            return None if labels.several else "no label"
        if (labels.form == "number") == self.numbered:
            return None
        ours, theirs = ("names", "number") if labels.form == "number" else ("numbers", "name")
        return f"label {labels.values[0]!r} is a {theirs}, where the source has {ours}"
