"""The end of `vitstream shard`: catalogue and rejects from the shards' parts, and the manifest last."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data_prep import work
from data_prep.catalog.plan import PlannedShard, PlannedSplit
from data_prep.catalog.samples import CATALOGUE_NAME, REJECTS_NAME, Reject, join_rows, write_rejects
from data_prep.common.stored import read_stored
from data_prep.common.unfinished import work_folder
from data_prep.views import subset_views
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory
from pipeline.dataset.manifest import MANIFEST_NAME, File, Manifest, Shard, read_manifest, write_manifest
from pipeline.dataset.quantities import parse_limit


@dataclass(frozen=True)
class Record:
    """What shards/shard.py writes once a shard is made."""

    shard: Shard
    index: File
    rejects: tuple[Reject, ...]


_UNREAD: Final = re.compile(r"cannot be read|changed since|\w+://")  # reasons of sources, not of images


def planned_shards(split: PlannedSplit) -> list[PlannedShard]:
    """All shards of a split, in order."""
    return [PlannedShard(split.name, number, *split.shard_range(number)) for number in range(split.shards)]


def dataset_of(out: Path, split: str) -> Path:
    """The dataset's folder of a split."""
    return out if split == "all" else out / split


def datasets(out: Path, val_fraction: float) -> list[Path]:
    """The datasets that OUT consists of."""
    return [out / "train", out / "val"] if val_fraction else [out]


def finished(out: Path) -> list[Path]:
    """The datasets that are in OUT."""
    return [folder for folder in (out, out / "train", out / "val") if (folder / MANIFEST_NAME).exists()]


def record_path(folder: Path, shard: PlannedShard) -> Path:
    """The file in the work folder whose presence says that the shard is done."""
    return folder / shard.split / shard.name.replace(".tar", ".json")


def read_record(path: Path) -> Record:
    """A shard's record. Raises WorkFailed where it is damaged."""
    return read_stored(path, Record)


def is_done(folder: Path, out: Path, shard: PlannedShard) -> bool:
    """Whether the shard has its record, and all is there that the record says."""
    path = record_path(folder, shard)
    if not (path.exists() and path.with_suffix(".parquet").exists()):
        return False
    made = read_record(path).shard
    shards = dataset_of(out, shard.split) / "shards"
    tar, index = shards / made.name, shards / made.index_name
    return made.samples == 0 or (tar.exists() and index.exists() and tar.stat().st_size == made.bytes)


def rejects_of(folder: Path, shards: Sequence[PlannedShard]) -> Iterator[Reject]:
    """What was left out of those shards that are done."""
    for shard in shards:
        path = record_path(folder, shard)
        if path.exists():
            yield from read_record(path).rejects


class RejectLimit:
    """--max-rejects of these shards together, looked at as they are made, each once: there may be very many."""

    def __init__(self, folder: Path, shards: Sequence[PlannedShard], max_rejects: str) -> None:
        self._folder, self._shards = folder, shards
        self._total = sum(shard.samples for shard in shards)
        self._limit = parse_limit(max_rejects, self._total, "--max-rejects")
        self._reasons: Counter[str] = Counter()

    def resume(self, done: Sequence[PlannedShard]) -> set[PlannedShard]:
        """Adds those that were made before. Returns those that may stay: where there were too many rejects already,
        shards that lack images which could not be read are made again, as these may be back, like a disk that was not
        mounted."""
        rejects = {shard: list(rejects_of(self._folder, [shard])) for shard in done}
        if sum(map(len, rejects.values())) > self._limit:
            done = [shard for shard in done if not any(_UNREAD.match(reject.reason) for reject in rejects[shard])]
        self.add(*done)
        return set(done)

    def add(self, *made: PlannedShard) -> None:
        """Raises WorkFailed where there are more than allowed, once they are listed where the user can see them."""
        self._reasons.update(_without_details(reject.reason) for reject in rejects_of(self._folder, made))
        if self._reasons.total() > self._limit:
            raise self._exceeded()

    def _exceeded(self) -> WorkFailed:
        path = self._folder / REJECTS_NAME
        write_rejects(path, rejects_of(self._folder, self._shards))
        count = f"{self._reasons.total():,} of {self._total:,} images rejected so far, {self._limit:,} allowed"
        ((reason, often),) = self._reasons.most_common(1)
        advice = "to go on all the same, run again with a higher --max-rejects"
        return WorkFailed(f"{count}; mostly: {reason} ({often:,}); all listed in {path}; {advice}")


def _without_details(reason: str) -> str:
    """`corrupt or truncated: ...` and `no label (a.csv, line 17)` are of a kind with others."""
    return reason.partition(":")[0].partition(" (")[0]


def finalize(out: Path, max_rejects: str | None = None) -> bool:
    """Makes the dataset of what the tasks left in OUT. Returns False where it was finished already.

    Raises:
        UsageError: nothing was begun in OUT.
        WorkFailed: shards are missing, or too many images were rejected.
    """
    if not (out / work.WORK_NAME / "plan.json").exists():
        if finished(out):
            return False
        raise UsageError(f"{out}: no planned dataset in it; begin with: vitstream shard SOURCE --out {out}")
    with work_folder(out, "shard", shared=True) as folder:
        plan = work.read_plan(folder)
        if plan is None:
            return False
        work.check_versions(out, plan.versions)
        publish(out, folder, plan, plan.max_rejects if max_rejects is None else max_rejects)
    return True


def publish(out: Path, folder: Path, plan: work.Plan, max_rejects: str) -> None:
    """Writes the datasets and removes the work folder. Raises WorkFailed as `finalize` does."""
    by_split = {split: planned_shards(split) for split in plan.splits}
    every = [shard for shards in by_split.values() for shard in shards]
    missing = [shard for shard in every if not is_done(folder, out, shard)]
    if missing:
        named = ", ".join(f"{dataset_of(out, shard.split).name}/{shard.name}" for shard in missing[:3])
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        advice = "run the vitstream shard command again, or the tasks that died, and then finalize"
        raise WorkFailed(f"{out}: {len(missing):,} of {len(every):,} shards are missing: {named}{more}; {advice}")
    RejectLimit(folder, every, max_rejects).add(*every)
    for split, shards in by_split.items():
        _publish_split(dataset_of(out, split.name), folder, plan, split, shards)
    tidy(out, plan.splits[0].name)


def tidy(out: Path, first_split: str) -> None:
    """What is left to do once the manifests stand, which may be done twice: subsets, and the work folder's end."""
    dataset = dataset_of(out, first_split)
    subsets = read_manifest(dataset).asked.get("subsets") or ()
    if subsets:
        subset_views(dataset, subsets)
    work.remove(out / work.WORK_NAME)


def _publish_split(
    dataset: Path, folder: Path, plan: work.Plan, split: PlannedSplit, planned: Sequence[PlannedShard]
) -> None:
    """Catalogue, rejects, and last the manifest."""
    records = [read_record(record_path(folder, shard)) for shard in planned]
    made = [(shard, record) for shard, record in zip(planned, records, strict=True) if record.shard.samples]
    if not made:
        raise WorkFailed(f"{dataset}: every one of its images was rejected")
    join_rows(dataset / CATALOGUE_NAME, (record_path(folder, shard).with_suffix(".parquet") for shard, _ in made))
    write_rejects(dataset / REJECTS_NAME, rejects_of(folder, planned))
    fsync_directory(dataset.parent)
    files = [record.index for _, record in made]
    files += [File.of(dataset, name) for name in (CATALOGUE_NAME, REJECTS_NAME)]
    what = plan.asked | {"bytes_per_image": plan.bytes_per_image, "split": split.name}
    shards = tuple(record.shard for _, record in made)
    write_manifest(dataset, Manifest(plan.classes, plan.labels, shards, what, tuple(files)))


def check_whole(dataset: Path, out: Path) -> None:
    """Raises UsageError where a file of a finished dataset is gone or has another size."""
    manifest = read_manifest(dataset)
    sizes = {f"shards/{shard.name}": shard.bytes for shard in manifest.shards}
    sizes |= {file.name: file.bytes for file in manifest.files}
    for name, size in sizes.items():
        advice = f"see vitstream verify {dataset} --repair, or delete {out} and start again"
        try:
            found = (dataset / name).stat().st_size
        except OSError as error:
            raise UsageError(f"{dataset / name}: {error.strerror}; {advice}") from None
        if found != size:
            wrong = f"has {found:,} bytes, {MANIFEST_NAME} says {size:,}"
            raise UsageError(f"{dataset / name}: {wrong}; {advice}")
