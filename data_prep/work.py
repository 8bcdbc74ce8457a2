"""OUT/.shard-work: what was planned and what is done, kept until the manifest is written.

plan.json, plan/  which image goes where, for which options and versions (catalog/plan.py); plan.json is written last
spool/            pass 1 over sources that can only be streamed (shards/spool.py)
SPLIT/shard-*     records, parts of the catalogue, and what is being written
lock, plan.lock   held by the processes that work here, and by the one that plans
"""

import fcntl
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from data_prep.catalog.plan import PlannedSplit
from data_prep.common.stored import read_stored
from data_prep.common.unfinished import lock
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import write_json
from pipeline.dataset.manifest import LabelKind

WORK_NAME: Final = ".shard-work"
_LIBRARIES: Final = ("vitstream", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "pyarrow")


@dataclass(frozen=True)
class Plan:
    """plan.json: all that the tasks and the end have to agree on."""

    asked: dict[str, Any]
    versions: dict[str, str]
    bytes_per_image: int
    splits: tuple[PlannedSplit, ...]
    classes: tuple[str, ...]
    labels: LabelKind
    ignored: dict[str, int]
    streams: int  # files that have to be streamed; listed in plan/streams.json
    max_rejects: str

    @property
    def samples(self) -> int:
        return sum(split.samples for split in self.splits)


def versions() -> dict[str, str]:
    """What a dataset's bytes depend on besides the listing and the options."""
    return {name: _version(name) for name in _LIBRARIES} | {"machine": platform.machine()}


@contextmanager
def planning(work: Path) -> Iterator[Path]:
    """A fresh folder to plan in, once no other task plans. Where the file system knows no locks, several may plan at
    the same time, to the same result."""
    fd = os.open(work / "plan.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    folder = work / f"planning-{os.urandom(6).hex()}"
    try:
        if lock(fd, fcntl.LOCK_EX):
            for left in work.glob("planning-*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def read_plan(work: Path) -> Plan | None:
    """The stored plan, or None where there is none yet. Raises UsageError where it is not what was written."""
    try:
        return read_stored(work / "plan.json", Plan, f"delete {work.parent} and start again")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except WorkFailed as error:  # running it again will not help
        raise UsageError(str(error)) from None


def write_plan(work: Path, plan: Plan) -> None:
    """Stores what every later run must agree with; last of all that planning writes."""
    write_json(work / "plan.json", asdict(plan))


def check_versions(out: Path, stored: Mapping[str, str]) -> None:
    """Raises UsageError where the libraries are not those of the first run: its bytes might not be ours."""
    for name, now in versions().items():
        if stored.get(name) != now:
            advice = f"install {name} {stored.get(name)} to continue, or delete {out} and start again"
            raise UsageError(f"{out}: begun with {name} {stored.get(name)}, here is {now}; {advice}")


def check_asked(out: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UsageError naming the first thing in which `now` differs from what was asked for at first."""
    advice = f"ask for the same, choose another --out, or delete {out} and start again"
    for name, value in now.items():
        if stored.get(name) == value:
            continue
        if name == "listing":
            raise UsageError(f"{out}: made from other images: names, sizes or labels in SOURCE have changed; {advice}")
        what = {"images": "number of images in SOURCE", "source": "SOURCE"}.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(f"{out}: made with another {what}: {stored.get(name)} then, {value} now; {advice}")


def remove(work: Path) -> None:
    """Removes the work folder, once the manifest stands. A task that is late finds it gone, whole."""
    gone = work.with_name(f"{WORK_NAME}.removed-{os.urandom(6).hex()}")
    with suppress(FileNotFoundError):  # another finalize was faster
        work.rename(gone)
    for left in work.parent.glob(f"{WORK_NAME}.removed-*"):
        shutil.rmtree(left, ignore_errors=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
