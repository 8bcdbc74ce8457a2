"""The card for programs: what card.json says. The same dataset gives the same bytes."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.card.distribution import PERCENTS, Distribution, nice_edges, ratio_edges, wide_range
from data_prep.card.gather import Card, Part
from data_prep.card.rejects import Kind
from pipeline.dataset.names import one_line

VERSION = 1


def to_json(card: Card) -> dict[str, Any]:
    """Everything on the card but the pictures' own bytes. Sizes in pixels and bytes, shares in 0..1."""
    tally = card.tally
    wide = wide_range(tally.widths, tally.heights)  # of the two alike
    return {
        "version": VERSION,
        "name": card.name,
        "images": tally.images,
        "classes": len(card.classes),
        "labels": card.parts[0].manifest.labels,
        "shards": sum(len(part.manifest.shards) for part in card.parts),
        "bytes": sum(part_bytes(part) for part in card.parts),
        "datasets": [_part(part) for part in card.parts],
        "balance": balance(tally.classes),
        "class_histogram": [_class(card, number) for number in range(len(card.classes))],
        "labels_per_image": {str(n): count for n, count in sorted(tally.labels_per_image.items())},
        "width": spread(tally.widths, wide),
        "height": spread(tally.heights, wide),
        "aspect_ratio": ratios(tally.aspects),
        "orientation": {"landscape": tally.landscape, "square": tally.square, "portrait": tally.portrait},
        "image_bytes": spread(tally.sizes, wide_range(tally.sizes)),
        "shard_bytes": spread(card.shard_bytes, wide_range(card.shard_bytes)),
        "shard_images": spread(card.shard_images, wide_range(card.shard_images)),
        "rejects": _rejects(card.rejects),
        "duplicates": None if card.duplicates is None else vars(card.duplicates),
        "dedup": card.dedup,
        "pictures": list(_pictures(card)),
    }


def part_bytes(part: Part) -> int:
    """Of all its shards."""
    return sum(shard.bytes for shard in part.manifest.shards)


def balance(classes: np.ndarray) -> dict[str, Any]:
    """How evenly images are spread over classes.

    `effective`: exp of the entropy of the classes' shares, the number of equally large classes that would be as hard to
    guess: all of them where they are equally large, 1 where one has everything.
    """
    if len(classes) == 0 or classes.sum() == 0:
        return {"largest": 0, "smallest": 0, "median": 0, "empty": len(classes), "effective": 0.0}
    shares = np.sort(classes[classes > 0]) / classes.sum()
    return {
        "largest": int(classes.max()),
        "smallest": int(classes.min()),
        "median": int(np.sort(classes)[(len(classes) - 1) // 2]),
        "empty": int((classes == 0).sum()),
        "effective": round(math.exp(-math.fsum((shares * np.log(shares)).tolist())), 2),
    }


def spread(values: Distribution, wide: bool) -> dict[str, Any] | None:
    """A distribution; None where nothing was counted."""
    if not values.counts:
        return None
    return {
        "least": values.least,
        "most": values.most,
        "mean": round(values.total / values.number, 3),
        "percentiles": {str(p): value for p, value in zip(PERCENTS, values.quantiles(), strict=True)},
        "scale": "log" if wide else "linear",
        "histogram": [list(row) for row in values.histogram(nice_edges(values, wide))],
    }


def ratios(values: Distribution) -> dict[str, Any] | None:
    """The same of thousandths."""
    if not values.counts:
        return None
    return {
        "least": values.least / 1000,
        "most": values.most / 1000,
        "mean": round(values.total / values.number / 1000, 3),
        "percentiles": {str(p): value / 1000 for p, value in zip(PERCENTS, values.quantiles(), strict=True)},
        "scale": "ratio",
        "histogram": [[low / 1000, high / 1000, n] for low, high, n in values.histogram(ratio_edges(values))],
    }


def _part(part: Part) -> dict[str, Any]:
    manifest = part.manifest
    return {
        "name": part.name,
        "fingerprint": manifest.fingerprint,
        "container": manifest.container,
        "partial": manifest.partial,
        "images": part.tally.images,
        "shards": len(manifest.shards),
        "bytes": part_bytes(part),
        "rejects": None if part.rejects is None else sum(kind.images for kind in part.rejects.values()),
        "asked": manifest.asked,
    }


def _class(card: Card, number: int) -> dict[str, Any]:
    row = {"class": number, "name": one_line(card.classes[number]), "images": int(card.tally.classes[number])}
    if len(card.parts) > 1:
        row |= {part.name: int(part.tally.classes[number]) for part in card.parts}
    return row


def _rejects(kinds: dict[str, Kind] | None) -> dict[str, Any] | None:
    if kinds is None:
        return None
    reasons = [
        {
            "reason": reason,
            "images": kind.images,
            "examples": [{"source": source, "reason": whole} for source, whole in kind.examples],
        }
        for reason, kind in kinds.items()
    ]
    return {"images": sum(kind.images for kind in kinds.values()), "reasons": reasons}


def _pictures(card: Card) -> Iterator[dict[str, Any]]:
    for picture in card.pictures:
        yield {
            "dataset": card.parts[picture.dataset].name,
            "sample": picture.sample,
            "key": picture.row.key,
            "labels": list(picture.row.labels),
            "width": picture.row.width,
            "height": picture.row.height,
            "error": picture.error or None,
        }
