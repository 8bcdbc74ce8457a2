"""A preset's data where it is not at hand: as many samples and classes, nothing of which can be read. Torch-free."""

from pathlib import Path
from typing import Final

from pipeline.config import Config
from pipeline.config_preset import Preset
from pipeline.data.corpus import Corpus, Member
from pipeline.data.places import Weighted
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, Shard
from pipeline.launch.preflight import check, open_data

IMAGE_BYTES: Final = 30_000  # of a JPEG as `vitstream shard` makes them by default, about
_SAMPLES_PER_SHARD: Final = 10_000
_NONE: Final = "0" * 16


def data_to_plan(config: Config, ranks: int) -> tuple[Corpus, str | None]:
    """What a run would train on, and what is to be said of it. Raises UsageError as `open_data`."""
    check(config, ranks)
    return imagined(config) or (open_data(config, ranks)[0], None)


def imagined(config: Config) -> tuple[Corpus, str] | None:
    """A corpus as large as a preset's, and what is said of it; None where the data is there, or there is no preset.

    A URL counts as there: whether it is shows when it is opened.
    """
    places = config.data.train if isinstance(config.data.train, tuple) else (config.data.train,)
    paths = [place.path if isinstance(place, Weighted) else place for place in places]
    if config.preset is None or any(not isinstance(path, Path) or path.exists() for path in paths):
        return None
    preset = config.preset
    corpus = Corpus((Member(Location.of(paths[0]), _manifest(preset)),))
    said = f"{preset.dataset_samples:,} images in {preset.dataset_classes:,} classes, as of {preset.dataset}"
    assumed = f"{IMAGE_BYTES / 1000:.0f} kB each is a guess"
    return corpus, f"{', '.join(map(str, paths))} is not here: planned for {said}; {assumed}"


def _manifest(preset: Preset) -> Manifest:
    full, rest = divmod(preset.dataset_samples, _SAMPLES_PER_SHARD)
    sizes = [_SAMPLES_PER_SHARD] * full + [rest] * (rest > 0)
    return Manifest(
        classes=tuple(map(str, range(preset.dataset_classes))),
        labels="single",
        shards=tuple(
            Shard(f"shard-{number:06d}.tar", samples, samples * IMAGE_BYTES, _NONE, _NONE)
            for number, samples in enumerate(sizes)
        ),
    )
