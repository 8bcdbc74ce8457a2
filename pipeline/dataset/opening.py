"""What is trained on, opened: a dataset, or an MDS folder as it lies."""

from pathlib import Path

from pipeline.dataset.blob import Blob
from pipeline.dataset.containers import ShardFile, open_shard
from pipeline.dataset.errors import UsageError
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, NoDataset, read_manifest
from pipeline.dataset.mds_folder import MdsFolderFile, MdsManifest, agree, mds_manifest


def read_dataset(place: Location, classes: int | Path | None = None, needs_classes: bool = True) -> Manifest:
    """The manifest of a dataset, or of an MDS folder.

    Args:
        classes: data.classes, for an MDS folder that does not name them; a dataset's must not be others.
        needs_classes: see `mds_manifest`.

    Raises:
        UsageError: neither is there, or it cannot be used; the message says why.
        WorkFailed: a server does not answer.
    """
    try:
        manifest = read_manifest(place)
    except NoDataset as missing:
        try:
            return mds_manifest(place, classes, needs_classes)
        except FileNotFoundError:
            raise missing from None
        except OSError as error:
            raise UsageError(f"{place}: its index.json cannot be read ({error.strerror})") from None
    agree(place, manifest.classes, classes)
    return manifest


def open_file(manifest: Manifest, number: int, blob: Blob) -> ShardFile:
    """Shard `number`, whose bytes `blob` has."""
    if isinstance(manifest, MdsManifest):
        return MdsFolderFile(blob, manifest, number)
    return open_shard(manifest.container, blob, manifest.shards[number].name)
