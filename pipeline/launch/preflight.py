"""What can be known before anything is started: a user's mistake is found here, in one line, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.manifest import CheckpointManifest, Damaged, published, read_checkpoint_manifest
from pipeline.checkpoint.source import open_source
from pipeline.config import Config, differences, load_config
from pipeline.data.cache import open_folder
from pipeline.data.corpus import Corpus, Member, not_cached, open_corpus, open_member
from pipeline.dataset.errors import UsageError
from pipeline.dataset.remote.patience import Patience
from pipeline.launch import mosaic
from pipeline.launch.changes import changes, refuse_harmful
from pipeline.launch.template import zero_template
from pipeline.models.architecture import foreign_config
from pipeline.models.shapes import parameter_shapes
from pipeline.optim.groups import group
from pipeline.run.directory import RunDirectory
from pipeline.sinks.feed import check_installed


@dataclass(frozen=True)
class Prepared:
    """A run that can start."""

    config: Config
    run: RunDirectory
    train: Corpus
    val: Member | None
    accept_changes: bool  # also to what is trained
    foreign: dict[str, Any] | None  # of a model of transformers, its config.json as it was at the start

    @property
    def notes(self) -> list[str]:
        """What one might expect and will not get, a line each."""
        if self.config.data.cache is None:
            return []
        train = () if self.config.loader.name == "mosaic" else self.train.members  # which keeps copies of its own
        return not_cached([*train, *filter(None, [self.val])])


def prepare(
    run_yaml: Path, overrides: list[str], world_size: int, from_scratch: bool, accept_changes: bool = False
) -> Prepared:
    """Checks configuration, data and the run's folder for a start with `world_size` ranks.

    From scratch, what the run was before does not matter. `accept_changes`: also to what is trained.

    Raises:
        UsageError: what is wrong, and the fix.
    """
    config = load_config(run_yaml, overrides)
    train, val = open_data(config, world_size)
    if config.data.cache is not None:
        open_folder(config.data.cache, [member.location for member in (*train.members, *filter(None, [val]))])
    run = RunDirectory(config.run_dir)
    run.create()
    newest = None if from_scratch else newest_checkpoint(config, run, train, accept_changes)
    if newest is None:
        check_start(config)
    return Prepared(config, run, train, val, accept_changes, foreign_config(config.model))


def newest_checkpoint(
    config: Config, run: RunDirectory, train: Corpus, accept_changes: bool
) -> CheckpointManifest | None:
    """What a start would go on from, as far as its manifest is sound. Raises as `compare`."""
    newest = _newest(run)
    if newest is not None:
        compare(newest, config, train, accept_changes)
    return newest


def compare(manifest: CheckpointManifest, config: Config, train: Corpus, accept_changes: bool) -> list[str]:
    """What differs from a checkpoint that is to be gone on from, a line each.

    Raises:
        UsageError: it does not fit this configuration, or this data, or not without `accept_changes`.
    """
    if manifest.data["fingerprint"] != train.fingerprint:
        raise UsageError(
            f"data.train: {train} is not what this run's checkpoints were trained on (fingerprint "
            f"{train.fingerprint[:12]}, theirs {manifest.data['fingerprint'][:12]}): bring that back, "
            "or take another run_dir"
        )
    found = changes(manifest.config, config)
    refuse_harmful(found, accept_changes)
    theirs, ours = manifest.data.get("foreign"), foreign_config(config.model)
    if theirs is not None and ours is not None and (other := differences(theirs, ours)):
        key, before, after = other[0]
        raise UsageError(
            f"model.name: {config.model.name}: {key} was {before} when this run's checkpoints were made and is {after} "
            "now: change it back, or take another run_dir"
        )
    return [str(change) for change in found]


def check(config: Config, world_size: int) -> None:
    """Raises UsageError for what is wrong without a look at the data."""
    if config.batch_size < world_size:
        raise UsageError(
            f"batch_size: {config.batch_size} is smaller than the {world_size} ranks: "
            f"raise it to {world_size} or more, or start fewer ranks"
        )
    zero_template(config)
    check_installed(config.sinks)
    foreign_config(config.model)
    Patience.ours()  # VITSTREAM_RETRY_SECONDS, which loader workers read


def open_data(config: Config, world_size: int) -> tuple[Corpus, Member | None]:
    """What is trained on and evaluated, once all that needs no run folder has been checked. Raises UsageError."""
    check(config, world_size)
    train = open_corpus(config.data.train, classes=config.data.classes)
    if shapes := parameter_shapes(config, len(train.classes)):
        group(shapes, config.optimizer)  # refuses what does not fit the model; of one of transformers, once it is built
    if config.loader.name == "mosaic":
        mosaic.check(config, train, world_size)
    val = open_member(config.data.val, "data.val", config.data.classes) if config.data.val else None
    if val is not None and val.manifest.classes != train.classes:
        raise UsageError(f"data.val: {val.location} has other classes than data.train, {train.members[0].location}")
    return train, val


def check_start(config: Config) -> None:
    """A run that begins can read what it is to start from, as far as that shows without tensors."""
    if config.model.init is not None:
        open_source(config.model.init)


def _newest(run: RunDirectory) -> CheckpointManifest | None:
    for path in reversed(published(run.checkpoints)):
        try:
            return read_checkpoint_manifest(path)
        except Damaged:  # said, and set aside, when the ranks choose a checkpoint
            continue
    return None
