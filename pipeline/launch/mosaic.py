"""What `loader: {name: mosaic}` cannot do, said before anything is started. Torch-free."""

from importlib.metadata import PackageNotFoundError, version

from pipeline.config import Config, Loader
from pipeline.data.corpus import Corpus
from pipeline.dataset.errors import UsageError
from pipeline.dataset.mds_folder import MdsManifest

_OURS = ("threads", "read_ahead", "reads", "memory")  # keys of `loader` that are of our own loader only
_SCHEMES = ("s3://", "gs://")  # of what may lie afar: of those that both sides read


def check(config: Config, train: Corpus, world_size: int) -> None:
    """Raises UsageError, of one line, where the run cannot go with mosaicml-streaming's loader."""
    try:
        version("mosaicml-streaming")
    except PackageNotFoundError:
        raise UsageError(
            "loader.name: mosaicml-streaming is not installed; in an environment of its own: "
            "pip install 'vitstream[mds]'"
        ) from None
    (member,) = train.members
    if not isinstance(member.manifest, MdsManifest):
        raise UsageError(
            f"data.train: {member.location} is no MDS folder, which is what loader.name: mosaic reads: "
            "vitstream convert makes one, or leave loader.name out"
        )
    if train.several:
        raise UsageError(f"data.train: {member.location} has several labels per image, loader.name: mosaic reads one")
    if member.location.is_remote and not member.location.text.startswith(_SCHEMES):
        raise UsageError(f"data.train: {member.location}: loader.name: mosaic reads {' and '.join(_SCHEMES)} from afar")
    for key in _OURS:
        if getattr(config.loader, key) != Loader.model_fields[key].default:
            raise UsageError(f"loader.{key}: has no meaning with loader.name: mosaic; leave it out")
    if config.batch_size % world_size:
        raise UsageError(
            f"batch_size: {config.batch_size} is no multiple of the {world_size} ranks, as loader.name: mosaic needs: "
            f"take {-(-config.batch_size // world_size) * world_size}, or other ranks"
        )
    if train.samples < world_size:
        raise UsageError(
            f"data.train: {train.samples} samples are too few for {world_size} ranks with loader.name: mosaic"
        )


def refuse(config: Config, verb: str) -> None:
    """Raises UsageError where a verb answers from our own order, which is not the run's."""
    if config.loader.name == "mosaic":
        raise UsageError(
            f"{verb}: the run has loader.name: mosaic, whose order is mosaicml-streaming's and not known beforehand; "
            "without that key, our own loader reads the same MDS folder, and this is answered"
        )
