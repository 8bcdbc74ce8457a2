"""`vitstream inspect`: gathers a dataset's card and writes it down."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from data_prep.card.gather import Card, dataset_folders, gather, spill_folder
from data_prep.card.page import render
from data_prep.card.summary import to_json
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import atomic_file, write_json
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.quantities import human_bytes

PAGE_NAME: Final = "card.html"
JSON_NAME: Final = "card.json"


@dataclass(frozen=True)
class Inspection:
    """A card, what card.json says, and where the page is."""

    card: Card
    body: dict[str, Any]
    page: Path


def inspect(
    dataset: Path, out: Path | None = None, pictures: int = 64, dedup: Path | None = None, bar: bool = False
) -> Inspection:
    """Writes card.html and card.json of a DATASET, or of the folder of its train/ and val/, into `out`, or there.

    Raises:
        UsageError: no dataset there, no report in `dedup`, or an `out` that is no folder.
        WorkFailed: the dataset is damaged, or `out` cannot be written.
    """
    for folder in dataset_folders(dataset):
        read_manifest(folder)  # says what is wrong, before anything is written
    out = dataset if out is None else out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--out {out}: not a folder; name another") from None
    except OSError as error:
        raise WorkFailed(f"--out {out}: cannot be made ({error.strerror})") from None
    with spill_folder(out) as spill:
        card = gather(dataset, pictures, dedup, Path(spill), len(os.sched_getaffinity(0)), bar)
    body = to_json(card)
    try:
        with atomic_file(out / PAGE_NAME) as file:
            file.write(render(card, body).encode())
        write_json(out / JSON_NAME, body)
    except OSError as error:
        raise WorkFailed(f"{out}: cannot be written ({error.strerror}); give another folder with --out") from None
    return Inspection(card, body, out / PAGE_NAME)


def as_lines(found: Inspection) -> list[str]:
    """What `vitstream inspect` says to a person."""
    body = found.body
    classes, shards = f"{body['classes']:,} classes", f"{body['shards']:,} shard{'s' * (body['shards'] != 1)}"
    lines = [f"{body['name']}: {body['images']:,} images, {classes}, {human_bytes(body['bytes'])} in {shards}"]
    failed = [picture for picture in found.card.pictures if picture.error]
    if failed:
        first = failed[0]
        folder = found.card.parts[first.dataset].folder
        lines.append(
            f"{len(failed):,} of {len(found.card.pictures):,} pictures cannot be shown, the first as"
            f" {first.row.key}: {first.error}; see: vitstream verify {folder}"
        )
    return [*lines, f"see {found.page}"]
