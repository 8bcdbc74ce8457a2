"""Views: datasets whose shards are links to another's, and which list only some of its samples.

A view costs its manifest, its links and the indexes of those shards of which it leaves something out. It needs the
dataset that it was made of, where that was. The samples of a dataset of ours are in global random order, so its first
n are a fair sample; and those of a smaller n lie inside those of a larger one.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from data_prep.common.aside import aside
from data_prep.common.keylists import contains, pack, read_key_list
from data_prep.common.links import link
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.dataset.index import ShardIndex, write_table
from pipeline.dataset.keys import hex64, key_sum
from pipeline.dataset.manifest import MANIFEST_NAME, File, Manifest, Shard, read_manifest, write_manifest
from pipeline.dataset.names import escape

SUBSETS_NAME: Final = "subsets"
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_COUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)([KMG%]?)", re.IGNORECASE)


@dataclass(frozen=True)
class View:
    """What was made. `unknown`: keys of the keep list that the dataset does not have."""

    manifest: Manifest
    was_complete: bool
    unknown: int = 0


@dataclass(frozen=True)
class _Choice:
    """What a view takes of a shard: all of it, or the rows at these positions."""

    number: int
    rows: np.ndarray | None


def prefix_view(dataset: Path, samples: int, out: Path) -> View:
    """Makes OUT a view of the first `samples` samples.

    Raises:
        UsageError: more than the dataset has, no dataset, or OUT holds something else.
        WorkFailed: an index of the dataset cannot be used, or OUT cannot be written.
    """
    manifest = read_manifest(dataset)
    if not 1 <= samples <= manifest.samples:
        raise UsageError(f"{dataset}: has {manifest.samples:,} samples; a view of the first {samples:,} cannot be made")
    what = {"first": samples}

    def choices() -> Iterator[_Choice]:
        for number, shard in enumerate(manifest.shards):
            count = min(shard.samples, samples - int(manifest.starts[number]))
            if count > 0:
                yield _Choice(number, None if count == shard.samples else np.arange(count))

    made, was_complete = _make(dataset, manifest, out, what, choices())
    return View(made, was_complete)


def keep_view(dataset: Path, keep_list: Path, out: Path) -> View:
    """Makes OUT a view of the samples whose keys are in a file (keylists.py), in the dataset's order.

    Raises:
        UsageError: the list cannot be read or names no sample, no dataset, or OUT holds something else.
        WorkFailed: an index of the dataset cannot be used, or OUT cannot be written.
    """
    manifest = read_manifest(dataset)
    wanted = read_key_list(keep_list, "--keep")
    what = {"keep": hashlib.sha256(wanted.tobytes()).hexdigest(), "listed": len(wanted)}

    def choices() -> Iterator[_Choice]:
        taken = 0
        for number, shard in enumerate(manifest.shards):
            keys = _open_index(dataset, shard).keys()
            kept = np.flatnonzero(contains(wanted, pack(pa.array(keys, pa.string()))))
            if len(kept):
                taken += len(kept)
                yield _Choice(number, None if len(kept) == shard.samples else kept)
        if not taken:
            named = f"names {len(wanted):,} keys, none of them one of {dataset}" if len(wanted) else "is empty"
            raise UsageError(f"--keep {keep_list}: {named}; is it the list of another dataset?")

    made, was_complete = _make(dataset, manifest, out, what, choices())
    return View(made, was_complete, unknown=len(wanted) - made.samples)


def subset_views(dataset: Path, sizes: Sequence[str]) -> list[Path]:
    """Makes DATASET/subsets/SIZE for each size, named as the user wrote it. Raises as `prefix_view` does."""
    manifest = read_manifest(dataset)
    counts = {size: parse_count(size, manifest.samples, "--subsets") for size in sizes}
    made = []
    for size, count in counts.items():
        out = dataset / SUBSETS_NAME / size
        try:
            out.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise WorkFailed(f"{out.parent}: {error.strerror}") from None
        prefix_view(dataset, count, out)
        made.append(out)
    return made


def parse_count(text: str, total: int, option: str) -> int:
    """How many of `total` samples: `1000`, `9M`, `2.5K`, or a share, `0.5` or `10%`.

    Raises:
        UsageError: none of these, nothing, or more than there are.
    """
    found = _COUNT.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r}: not a number of samples; write it like 9M, 30000, 0.5 or 10%")
    value, unit = float(found[1]), found[2].upper()
    if unit == "%" or (unit == "" and "." in found[1]):
        count = int(total * value / (100 if unit == "%" else 1))
    else:
        count = round(value * _UNITS[unit])
    if not 1 <= count <= total:
        raise UsageError(f"{option} {text}: {count:,} samples; the dataset has {total:,}")
    return count


def _make(
    dataset: Path, manifest: Manifest, out: Path, what: dict[str, Any], choices: Iterator[_Choice]
) -> tuple[Manifest, bool]:
    """Writes the view aside and renames it: it is there, whole, or not at all. Returns whether it was there already."""
    earlier = manifest.asked.get("views")
    steps = [*(earlier if isinstance(earlier, list) else []), {"of": manifest.fingerprint, **what}]
    asked = manifest.asked | {"views": steps}
    try:
        if (out / MANIFEST_NAME).exists():
            present = read_manifest(out)
            if present.asked != asked:
                raise UsageError(f"{out}: holds another dataset; choose another --out, or delete it")
            return present, True
        with aside(out) as folder:
            (folder / "shards").mkdir()
            made = _fill(dataset, manifest, folder, choices, asked)
            fsync_directory(folder / "shards")
    except OSError as error:
        where, reason = escape(str(error.filename or out)), error.strerror or error
        raise WorkFailed(f"{where}: {reason}; nothing was made, run the same command again") from None
    return made, False


def _fill(
    dataset: Path, manifest: Manifest, folder: Path, choices: Iterator[_Choice], asked: dict[str, Any]
) -> Manifest:
    """Links, indexes and, last, the manifest."""
    said = {file.name: file for file in manifest.files}
    shards, files, partial = [], [], manifest.partial
    for choice in choices:
        shard = manifest.shards[choice.number]
        name = f"shards/{shard.index_name}"
        link(dataset / "shards" / shard.name, folder / "shards" / shard.name)
        if choice.rows is None:
            link(dataset / name, folder / name)
            shards.append(shard)
            files.append(said.get(name) or File.of(dataset, name))
            continue
        rows = _open_index(dataset, shard).take(choice.rows)
        write_table(folder / name, rows)
        keys = rows.column("key").to_pylist()
        shards.append(replace(shard, samples=len(keys), key_sum=hex64(key_sum(keys))))
        files.append(File.of(folder, name))
        partial = True
    made = replace(manifest, shards=tuple(shards), files=tuple(files), asked=asked, partial=partial)
    write_manifest(folder, made)
    return made


def _open_index(dataset: Path, shard: Shard) -> ShardIndex:
    index = ShardIndex(dataset / "shards" / shard.index_name)
    if len(index) != shard.samples:
        raise WorkFailed(f"{dataset}: the index of {shard.name} is not the manifest's; see vitstream verify {dataset}")
    return index


def as_json(out: Path, view: View) -> str:
    """The result for a program."""
    manifest = view.manifest
    body = {
        "path": escape(str(out)),
        "samples": manifest.samples,
        "shards": len(manifest.shards),
        "unknown": view.unknown,
        "fingerprint": manifest.fingerprint,
        "was_complete": view.was_complete,
    }
    return json.dumps(body)


def as_lines(out: Path, view: View) -> list[str]:
    """The result for a person."""
    count = len(view.manifest.shards)
    lines = [f"{out}: {view.manifest.samples:,} images in {count:,} shard{'s' * (count != 1)}, none of them copied"]
    if view.unknown:
        lines.append(f"keys of the list that the dataset does not have: {view.unknown:,}")
    return [*lines, "complete already: nothing to do"] if view.was_complete else lines
