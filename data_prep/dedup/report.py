"""report.json: the numbers, for programs and for the card of `vitstream inspect`."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from data_prep.dedup.hashes import FLAT, UNREADABLE, Hashes
from data_prep.dedup.pairs import Found
from data_prep.dedup.select import KINDS, Selection

REPORT_NAME: Final = "report.json"


def as_report(
    asked: dict[str, Any], hashes: Hashes, selection: Selection, found: Sequence[Found], conflicts: Sequence[int]
) -> dict[str, Any]:
    """What report.json says. `found` and `conflicts`: of each evaluation set, and last of the corpus itself.

    An image that goes for two evaluation sets counts in both, and once in `dropped`.
    """
    kept = int(np.count_nonzero(selection.keep))
    within = found[-1]
    return {
        "version": 1,
        "asked": asked,
        "dataset": _named(within),
        "images": len(hashes),
        "kept": kept,
        "dropped": len(hashes) - kept,
        "flat": int(np.count_nonzero(hashes.state == FLAT)),
        "unreadable": int(np.count_nonzero(hashes.state == UNREADABLE)),
        "within": {"groups": selection.groups, **_counts(within, conflicts[-1])},
        "against": [
            {**_named(one), "images": one.other.manifest.samples, **_counts(one, differ)}
            for one, differ in zip(found[:-1], conflicts[:-1], strict=True)
        ],
    }


def _named(one: Found) -> dict[str, str]:
    return {"path": one.other.name, "fingerprint": one.other.manifest.fingerprint}


def _counts(one: Found, conflicts: int) -> dict[str, int | None]:
    kinds = {name: one.matches.count(kind) for kind, name in enumerate(KINDS)}
    conflict = conflicts if one.comparable else None
    return {"dropped": len(one.matches.dropped), **kinds, "label_conflicts": conflict}
