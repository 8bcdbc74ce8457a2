"""`vitstream convert --to mds`: the same samples in the same order as MDS, by mosaicml-streaming's own writer.

Columns: `image`, type `jpeg`, of which StreamingDataset makes a PIL image, as its users expect; the bytes are those of
the dataset, whatever their format. `key`, str. `label`, int; or `labels`, json, where an image may have several. The
class names lie beside the shards in classes.json, which `vitstream index` reads and StreamingDataset passes over.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from data_prep.common.aside import aside
from data_prep.common.progress import progress_bar
from data_prep.common.stopping import stoppable
from data_prep.common.unfinished import DISK_FULL
from data_prep.common.workers import Advance
from data_prep.mds.reader import is_mds, read_classes, read_index
from pipeline.dataset.containers import Unreadable, open_shard
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import write_json
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.mds_listing import CLASSES_NAME, HASH_NAME
from pipeline.dataset.names import escape

IMAGE_ENCODING: Final = "jpeg"
SOURCE_NAME: Final = "vitstream.json"  # which dataset the folder was made of


@dataclass(frozen=True)
class Converted:
    """What was made."""

    samples: int
    shards: int
    bytes: int
    was_complete: bool


def convert(dataset: Path, out: Path, bar: bool = False) -> Converted:
    """Writes DATASET as MDS into OUT, aside first: OUT is there, whole, or not at all.

    Raises:
        UsageError: no dataset, mosaicml-streaming is not installed, or OUT holds something else.
        WorkFailed: a sample cannot be read, or OUT not be written.
        StoppedResumable: SIGINT or SIGTERM.
    """
    manifest = read_manifest(dataset)
    try:
        if (out / SOURCE_NAME).exists():
            return _complete(out, manifest)
        with aside(out) as folder:
            writer = _writer()  # the import answers signals in its own way: only after it can we
            with stoppable("nothing is left of it"):
                with progress_bar("converting", manifest.samples, 0, bar) as advance:
                    _write(writer, dataset, manifest, folder, advance)
                _finish(manifest, folder)
    except OSError as error:
        reason = "no space left" if error.errno in DISK_FULL else error.strerror or error
        raise WorkFailed(
            f"{out}: cannot be made ({escape(str(error.filename or out))}: {reason}); nothing was"
        ) from None
    return _summary(out, was_complete=False)


def _writer() -> Any:
    try:
        from streaming import MDSWriter
    except ImportError as error:
        what = "mosaicml-streaming is not installed" if error.name == "streaming" else f"mosaicml-streaming: {error}"
        raise UsageError(f"{what}; in an environment of its own: pip install 'vitstream[mds]'") from None
    return MDSWriter


def _write(writer: Any, dataset: Path, manifest: Manifest, folder: Path, advance: Advance) -> None:
    single = manifest.labels == "single"
    columns = {"image": IMAGE_ENCODING, "key": "str", **({"label": "int"} if single else {"labels": "json"})}
    with writer(out=str(folder), columns=columns, hashes=[HASH_NAME]) as out:
        for key, image, labels in _samples(dataset, manifest):
            out.write({"image": image, "key": key, **({"label": labels[0]} if single else {"labels": list(labels)})})
            advance(1)


def _samples(dataset: Path, manifest: Manifest) -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """(key, image, labels) of every sample, in order, as read from the shards and checked against the indexes."""
    for shard in manifest.shards:
        index = ShardIndex(dataset / "shards" / shard.index_name)
        file = open_shard(manifest.container, dataset / "shards" / shard.name)
        try:
            for position in range(shard.samples):
                row = index.row(position)
                packed = file.read(row)
                yield packed.key, packed.data, packed.labels
        except Unreadable as unreadable:
            where = f"{dataset}: {shard.name}: {row.key}"
            raise WorkFailed(f"{where}: {unreadable}; see: vitstream verify {dataset}") from None
        finally:
            file.close()


def _finish(manifest: Manifest, folder: Path) -> None:
    """Class names and origin, and all of it onto the disk."""
    write_json(folder / CLASSES_NAME, list(manifest.classes))
    write_json(folder / SOURCE_NAME, {"fingerprint": manifest.fingerprint, "samples": manifest.samples})
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _complete(out: Path, manifest: Manifest) -> Converted:
    try:
        made_of = json.loads((out / SOURCE_NAME).read_bytes())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        made_of = None
    if made_of != manifest.fingerprint or not is_mds(out) or read_classes(out) is None:
        raise UsageError(f"{out}: holds another dataset, or a damaged one; choose another --out, or delete it")
    return _summary(out, was_complete=True)


def _summary(out: Path, was_complete: bool) -> Converted:
    shards = read_index(out)
    return Converted(sum(s.samples for s in shards), len(shards), sum(s.bytes for s in shards), was_complete)


def as_json(out: Path, converted: Converted) -> str:
    """The result for a program."""
    return json.dumps({"path": escape(str(out)), **vars(converted)})
