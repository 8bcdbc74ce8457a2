"""What `vitstream shard` says at its end."""

import json
from pathlib import Path

from data_prep.build import Outcome
from data_prep.catalog.samples import REJECTS_NAME
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.names import escape
from pipeline.dataset.quantities import human_bytes


def as_lines(outcome: Outcome) -> list[str]:
    """A few lines for a person."""
    lines = [_dataset_line(folder, manifest) for folder, manifest in outcome.datasets.items()]
    lines += [
        f"left out: {count:,} images, see {folder / REJECTS_NAME}" for folder, count in outcome.rejects.items() if count
    ]
    if outcome.ignored:
        lines.append("ignored: " + ", ".join(f"{what} ({count:,})" for what, count in sorted(outcome.ignored.items())))
    if outcome.was_complete:
        return [*lines, "complete already: nothing to do"]
    if outcome.part is not None:
        lines.append(outcome.part)
    if not outcome.encoded:
        return lines
    rate = outcome.encoded / max(outcome.seconds, 1e-9)
    return [*lines, f"{outcome.encoded:,} images in {outcome.seconds:.1f} s: {rate:,.0f} images/s"]


def as_json(outcome: Outcome) -> str:
    """The same for a program."""
    datasets = [
        {
            "path": escape(str(folder)),
            "samples": manifest.samples,
            "classes": len(manifest.classes),
            "shards": len(manifest.shards),
            "bytes": _bytes(manifest),
            "rejects": outcome.rejects[folder],
            "fingerprint": manifest.fingerprint,
        }
        for folder, manifest in outcome.datasets.items()
    ]
    body = {
        "datasets": datasets,
        "ignored": outcome.ignored,
        "encoded": outcome.encoded,
        "seconds": round(outcome.seconds, 3),
        "images_per_s": round(outcome.encoded / max(outcome.seconds, 1e-9), 1),
        "was_complete": outcome.was_complete,
        "part": outcome.part,
    }
    return json.dumps(body)


def _dataset_line(folder: Path, manifest: Manifest) -> str:
    shards, size = len(manifest.shards), human_bytes(_bytes(manifest))
    classes = f"{len(manifest.classes):,} classes"
    return f"{folder}: {manifest.samples:,} images, {classes}, {size} in {shards:,} shard{'s' * (shards != 1)}"


def _bytes(manifest: Manifest) -> int:
    return sum(shard.bytes for shard in manifest.shards)
