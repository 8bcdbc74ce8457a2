"""What was left out, by reason: rejects.jsonl, line by line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from data_prep.card.catalogue import damaged
from data_prep.catalog.samples import REJECTS_NAME
from pipeline.dataset.files import open_regular

EXAMPLES: Final = 3
MAX_KINDS: Final = 100
OTHER: Final = "other reasons"


@dataclass
class Kind:
    """One reason, up to its details. `examples`: (source, whole reason) of the first few."""

    images: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def by_reason(dataset: Path) -> dict[str, Kind] | None:
    """Rejects by reason, the most frequent first; None where the dataset has no list of them.

    Raises:
        WorkFailed: the list is damaged.
    """
    kinds: dict[str, Kind] = {}
    try:
        with open_regular(dataset / REJECTS_NAME) as file:
            for line in file:
                reject = json.loads(line)
                name = str(reject["reason"]).partition(":")[0]
                kind = kinds.setdefault(name if name in kinds or len(kinds) < MAX_KINDS else OTHER, Kind())
                kind.images += 1
                if len(kind.examples) < EXAMPLES:
                    kind.examples.append((str(reject["source"]), str(reject["reason"])))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(dataset, f"{REJECTS_NAME}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(dataset, f"{REJECTS_NAME}: a line that is no reject") from None
    return ranked(kinds)


def ranked(kinds: dict[str, Kind]) -> dict[str, Kind]:
    """The most frequent first."""
    return dict(sorted(kinds.items(), key=lambda item: (-item[1].images, item[0])))


def added(one: dict[str, Kind] | None, other: dict[str, Kind] | None) -> dict[str, Kind] | None:
    """Both together."""
    if one is None or other is None:
        return other if one is None else one
    names = list(one) + [name for name in other if name not in one]
    sums = {name: (one.get(name, Kind()), other.get(name, Kind())) for name in names}
    return ranked(
        {name: Kind(a.images + b.images, (a.examples + b.examples)[:EXAMPLES]) for name, (a, b) in sums.items()}
    )
