"""Which sample goes to which shard: decided for all, before anything is encoded.

Pure functions of (listing, options, estimate). Splits, order and cuts come from hashes of keys, so they depend on
neither the listing's order nor the number of workers, and a split never moves when images are added.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from data_prep.names import escape
from data_prep.options import Options
from data_prep.sources.folder import Listing, SourceImage
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import keyed_hash

SPLIT_SEED: Final = 0x73706C6974  # "split": a hash of its own, so that the shuffle's seed does not move a split
MIN_SHARDS: Final = 8  # so that a small corpus, too, is prepared and read in parallel ...
MIN_SAMPLES: Final = 128  # ... but not in crumbs
TAR_OVERHEAD: Final = 4 * 512 + 256  # two headers, the label's block, the image's padding
SplitName = Literal["all", "train", "val"]


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be made, and of what."""

    split: SplitName
    name: str
    images: tuple[SourceImage, ...]


def asked(listing: Listing, options: Options) -> dict[str, Any]:
    """What dataset.json says was asked for: enough to tell whether a dataset is the one asked for now."""
    values = asdict(options)
    if options.as_is:
        values["quality"] = None
    names = sorted(escape(root.name) for root in listing.roots)
    return {"source": names, **values, "images": len(listing.images), "listing": listing.digest()}


def split(images: Sequence[SourceImage], val_fraction: float) -> dict[SplitName, list[SourceImage]]:
    """Splits by a hash of the key alone. Raises UsageError where one side stays empty."""
    if val_fraction == 0:
        return {"all": list(images)}
    limit = int(val_fraction * 2**64)
    parts: dict[SplitName, list[SourceImage]] = {"train": [], "val": []}
    for image in images:
        parts["val" if keyed_hash(image.key, SPLIT_SEED) < limit else "train"].append(image)
    for name, part in parts.items():
        if not part:
            raise UsageError(f"--val-fraction {val_fraction}: leaves no image for {name} out of {len(images)}")
    return parts


def shuffle(images: Sequence[SourceImage], seed: int) -> list[SourceImage]:
    """The global shuffle: by a keyed hash, so any prefix is a fair sample. Total, as keys are unique."""
    return sorted(images, key=lambda image: (keyed_hash(image.key, seed), image.key))


def count_shards(samples: int, bytes_per_image: int, shard_size: int) -> int:
    """How many shards `samples` images of an expected size make: at least one image each."""
    wanted = -(-samples * (bytes_per_image + TAR_OVERHEAD) // shard_size)
    return max(1, min(samples, max(wanted, min(MIN_SHARDS, samples // MIN_SAMPLES))))


def cut(samples: int, shards: int) -> list[tuple[int, int]]:
    """`samples` positions in `shards` neighbouring ranges [start, stop) whose lengths differ by one at most."""
    return [(i * samples // shards, (i + 1) * samples // shards) for i in range(shards)]


def plan(listing: Listing, options: Options, bytes_per_image: int) -> list[PlannedShard]:
    """Every shard of every split, in order. Raises UsageError where a split stays empty."""
    planned = []
    for name, part in split(listing.images, options.val_fraction).items():
        order = shuffle(part, options.seed)
        shards = count_shards(len(order), bytes_per_image, options.shard_size)
        for number, (start, stop) in enumerate(cut(len(order), shards)):
            planned.append(PlannedShard(name, f"shard-{number:06d}.tar", tuple(order[start:stop])))
    return planned
