"""What checkpoints a run has, at a glance: manifests and sizes are read, nothing is hashed. Torch-free."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    Damaged,
    published,
    read_checkpoint_manifest,
    step_name,
)
from pipeline.checkpoint.retention import KEEP_NAME, is_protected
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.quantities import human_bytes
from pipeline.run.directory import RunDirectory
from pipeline.run.metrics import lines_of_steps

_NAME = re.compile(r"(step-(\d{8,}))(?:\.(tmp|damaged)-.*)?")
_STATES = {None: "complete", "tmp": "unfinished", "damaged": "damaged"}
_COLUMNS = ("checkpoint", "state", "written", "size", "ranks", "stage", "epoch", "loss", "accuracy", "")


@dataclass(frozen=True)
class Listed:
    """A checkpoint as its folder, its manifest and the run's metrics show it; None where they do not."""

    name: str
    step: int
    state: str  # complete, unfinished, damaged; unknown: of another format, or not to be read now
    written: str  # UTC, ISO 8601
    bytes: int
    kept: bool  # protected from pruning
    world_size: int | None = None
    zero_stage: int | None = None
    consumed: int | None = None
    epoch: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    problem: str | None = None  # what is wrong with it, as far as that shows without reading it all

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def listed(run: RunDirectory) -> list[Listed]:
    """All checkpoints of a run, oldest first, those that must not be used included.

    Raises:
        UsageError: no run is there.
    """
    if not run.checkpoints.is_dir():
        raise UsageError(f"{run.path}: no run's folder: it has no {run.checkpoints.name}/")
    found = [(match, path) for path in run.checkpoints.iterdir() if (match := _NAME.fullmatch(path.name))]
    entries = []
    for match, path in found:
        with suppress(FileNotFoundError):  # pruned under our eyes by the run that is going on
            entries.append(_entry(path, int(match[2]), _STATES[match[3]]))
    lines = list(lines_of_steps(run.metrics, {entry.step for entry in entries}))
    return sorted((_measured(entry, lines) for entry in entries), key=lambda entry: (entry.step, entry.name))


def checkpoints_of(path: Path) -> list[Path]:
    """Checkpoints of a RUN folder, oldest first; or the one that `path` itself is.

    Raises:
        UsageError: neither is there.
    """
    run = RunDirectory(path)
    if run.checkpoints.is_dir():
        if not (found := published(run.checkpoints)):
            raise UsageError(f"{path}: has no checkpoint yet")
        return found
    if (path / MANIFEST_NAME).is_file() or (_NAME.fullmatch(path.name) and path.is_dir()):
        return [path]
    raise UsageError(f"{path}: neither a run's folder nor one of its checkpoints, RUN/checkpoints/step-N")


def set_keep(directory: Path, kept: bool) -> None:
    """Protects a checkpoint from pruning, or lets go of it.

    Raises:
        UsageError: not a checkpoint, or one that must not be used.
    """
    try:
        read_checkpoint_manifest(directory)
    except Damaged as damage:
        raise UsageError(f"{directory}: not a checkpoint to keep: {damage}") from None
    if kept:
        (directory / KEEP_NAME).touch()
    else:
        (directory / KEEP_NAME).unlink(missing_ok=True)


def as_lines(entries: list[Listed]) -> list[str]:
    """A table, a line for each checkpoint."""
    rows = [_COLUMNS, *map(_cells, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _entry(path: Path, step: int, state: str) -> Listed:
    files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
    manifest = path / MANIFEST_NAME
    modified = (manifest if manifest.is_file() else path).stat().st_mtime
    written = datetime.fromtimestamp(modified, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    entry = Listed(path.name, step, state, written, sum(f.stat().st_size for f in files), kept=is_protected(path))
    if state == "unfinished":
        return entry
    if not path.is_dir():
        return replace(entry, state="damaged", problem="is not a folder")
    try:
        read = read_checkpoint_manifest(path)
    except Damaged as damage:
        return replace(entry, state="damaged", problem=str(damage))
    except (UsageError, WorkFailed) as error:
        return replace(entry, state="unknown", problem=str(error))
    problem = next(_problems(path, read), None) if state == "complete" else None
    entry = replace(entry, world_size=read.world_size, zero_stage=read.zero_stage, consumed=read.consumed)
    loss = read.losses[-1] if read.losses else None
    return replace(entry, loss=loss, problem=problem, state="damaged" if problem else state)


def _problems(path: Path, manifest: CheckpointManifest) -> Iterator[str]:
    """What shows without reading the files."""
    if path.name != step_name(manifest.step):
        yield f"{MANIFEST_NAME} is of step {manifest.step:,}"
    for file in manifest.files:
        try:
            size = (path / file["name"]).stat().st_size
        except OSError:
            yield f"{file['name']} is missing"
            continue
        if size != file["bytes"]:
            yield f"{file['name']} has {size:,} bytes, not {file['bytes']:,}"


def _measured(entry: Listed, lines: list[dict[str, Any]]) -> Listed:
    """With what the metrics say of that step; of a repeated one the last line counts."""
    for line in lines:
        if line["step"] != entry.step:
            continue
        if "eval" in line:
            entry = replace(entry, accuracy=line.get("accuracy"))
        else:
            entry = replace(entry, epoch=line["epoch"], loss=line["loss"], accuracy=None)
    return entry


def _cells(entry: Listed) -> tuple[str, ...]:
    def shown(value: object, form: str = "") -> str:
        return "" if value is None else format(value, "" if isinstance(value, str) else form)  # a NaN is text

    return (
        entry.name,
        entry.state,
        entry.written,
        human_bytes(entry.bytes),
        shown(entry.world_size),
        shown(entry.zero_stage),
        shown(entry.epoch),
        shown(entry.loss, ".4f"),
        shown(entry.accuracy, ".2%"),
        entry.problem or ("kept" if entry.kept else ""),
    )
