"""What a run trains on: one dataset, several as one, or a weighted mixture; and the order that fits it.

data.train: data/photos                                       one dataset
data.train: [data/photos, s3://bucket/web]                    a concatenation: as if they were one dataset
data.train: [{path: data/photos, weight: 7}, {path: ...}]     a mixture: each in its share, in epochs of its own
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.mixture import Mixture
from pipeline.data.order import Order, SampleOrder
from pipeline.data.places import Place, Weighted
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import canonical_json
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import LabelKind, Manifest
from pipeline.dataset.opening import read_dataset


@dataclass(frozen=True)
class Member:
    """One dataset, and where it lies."""

    location: Location
    manifest: Manifest

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @property
    def cacheable_bytes(self) -> int:
        """Of the shards that a cache takes: those whose copies can be checked."""
        return sum(shard.bytes for shard in self.manifest.shards if shard.is_hashed)


@dataclass(frozen=True)
class Corpus:
    """The datasets of a run. Global sample ids go through them one after the other.

    What has epochs of its own is a part: each dataset of a mixture; else all of them together are part 0.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...] | None = None  # of a mixture

    @property
    def classes(self) -> tuple[str, ...]:
        """The same in all datasets."""
        return self.members[0].manifest.classes

    @property
    def labels(self) -> LabelKind:
        """The same in all datasets."""
        return self.members[0].manifest.labels

    @property
    def several(self) -> int:
        """Number of classes where an image may have any number of them; 0 where each has one."""
        return len(self.classes) if self.labels == "multi" else 0

    @property
    def samples(self) -> int:
        return int(self.starts[-1])

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(member.bytes for member in self.members)

    @property
    def is_remote(self) -> bool:
        """Whether some of it lies behind a server."""
        return any(member.location.is_remote for member in self.members)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [members + 1]: the global id of each dataset's first sample, and the total."""
        return np.concatenate([[0], np.cumsum([m.manifest.samples for m in self.members], dtype=np.int64)])

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(dataset, its shard, place in the shard) of global sample ids; int64 [n] each."""
        shards = np.searchsorted(self._shard_starts, ids, side="right") - 1
        members = np.searchsorted(self._first_shards, shards, side="right") - 1
        return members, shards - self._first_shards[members], ids - self._shard_starts[shards]

    @cached_property
    def _shard_starts(self) -> np.ndarray:
        """int64 [shards of all]: the global id of each shard's first sample."""
        starts = zip(self.starts[:-1], self.members, strict=True)
        return np.concatenate([start + member.manifest.starts[:-1] for start, member in starts])

    @cached_property
    def _first_shards(self) -> np.ndarray:
        """int64 [members]: how many shards the datasets before have."""
        return np.cumsum([0, *(len(member.manifest.shards) for member in self.members[:-1])], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """A single dataset's own; else SHA-256 over those of all, in their order, and their weights."""
        own = [member.manifest.fingerprint for member in self.members]
        if len(own) == 1:
            return own[0]
        return hashlib.sha256(canonical_json({"members": own, "weights": self.weights})).hexdigest()

    @property
    def parts(self) -> int:
        return 1 if self.weights is None else len(self.members)

    def members_of(self, part: int) -> tuple[Member, ...]:
        """The datasets of a part."""
        return self.members if self.weights is None else self.members[part : part + 1]

    def part_samples(self, part: int) -> int:
        return sum(member.manifest.samples for member in self.members_of(part))

    def key_sum(self, part: int) -> int | None:
        """Sum of the key hashes of a part, modulo 2**64: what an epoch of it must come to. None where one has none."""
        sums = [member.manifest.key_sum for member in self.members_of(part)]
        return None if None in sums else sum(sums) % (1 << 64)

    def name(self, part: int) -> str:
        """A part as a user knows it; of a URL neither query nor credentials."""
        return " + ".join(str(member.location) for member in self.members_of(part))

    def __str__(self) -> str:
        return ", ".join(str(member.location) for member in self.members)


def open_corpus(
    train: Place | tuple[Place | Weighted, ...], key: str = "data.train", classes: int | Path | None = None
) -> Corpus:
    """Reads the manifests of what `data.train` names: a place, a sequence of places, or of `Weighted`.

    `classes`: data.classes, for MDS folders that do not say which they have.

    Raises:
        UsageError: one cannot be used, or they do not go together; the message names `key`.
        WorkFailed: a server does not answer.
    """
    places = train if isinstance(train, tuple) else (train,)
    weighted = all(isinstance(place, Weighted) for place in places)
    members = tuple(open_member(place.path if isinstance(place, Weighted) else place, key, classes) for place in places)
    first, seen = members[0], dict[str, Member]()
    for member in members:
        if member.manifest.classes != first.manifest.classes:
            raise UsageError(
                f"{key}: {member.location} has other classes than {first.location} "
                f"({_difference(first.manifest.classes, member.manifest.classes)}): "
                "datasets that are trained on together need one class list"
            )
        if member.manifest.labels != first.manifest.labels:
            one, several = sorted((first, member), key=lambda each: each.manifest.labels, reverse=True)
            raise UsageError(
                f"{key}: {several.location} has several labels per image and {one.location} one: datasets that are "
                "trained on together need one kind; shard the other with --labels, too"
            )
        twin = seen.setdefault(member.manifest.fingerprint, member)
        if twin is not member:
            raise UsageError(
                f"{key}: {member.location} holds the same as {twin.location}: name it once, with a greater weight"
            )
    weights = tuple(float(place.weight) for place in places) if weighted and len(places) > 1 else None
    return Corpus(members, weights)


def open_member(place: Place, key: str, classes: int | Path | None = None) -> Member:
    """One dataset. Raises as `open_corpus`."""
    location = Location.of(place)
    try:
        manifest = read_dataset(location, classes)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None
    if manifest.samples == 0:
        raise UsageError(f"{key}: {location} holds no samples")
    return Member(location, manifest)


def not_cached(members: Iterable[Member]) -> list[str]:
    """Why data.cache has no effect on some of these datasets, a line for each."""
    return [
        f"data.cache: {member.location} is not cached: its index.json has no xxh3_64 hashes, by which copies are "
        "checked; MDSWriter(hashes=['xxh3_64']) writes them, and so does vitstream convert"
        for member in members
        if member.cacheable_bytes < member.bytes
    ]


def fit_order(corpus: Corpus, batch_size: int, seed: int) -> SampleOrder:
    """The order of a run that starts now, with this global batch size."""
    if corpus.weights is None:
        return Order.fit(corpus.samples, batch_size, seed)
    samples = [member.manifest.samples for member in corpus.members]
    return Mixture.fit(samples, list(corpus.weights), batch_size, seed)


def order_from_json(body: dict[str, Any]) -> SampleOrder:
    """The order that a checkpoint keeps."""
    return Mixture.from_json(body) if "shares" in body else Order(**body)


def _difference(classes: tuple[str, ...], others: tuple[str, ...]) -> str:
    """In which classes two lists differ first, in a few words."""
    if len(classes) != len(others):
        return f"{len(others):,} of them, not {len(classes):,}"
    number = next(n for n, (a, b) in enumerate(zip(classes, others, strict=True)) if a != b)
    return f"class {number} is {others[number]}, not {classes[number]}"
