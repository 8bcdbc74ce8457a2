"""OUT/.shard-work: what was planned and which shards are done, kept until the manifest is written.

plan.json        what was asked for, the versions of the libraries that encode, the estimate that the cut needs
lock             held by the process that works here
SPLIT/shard-*    records, parts of the catalogue, and what is being written
"""

import errno
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json

WORK_NAME = ".shard-work"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_LIBRARIES = ("vitstream", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "pyarrow")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def versions() -> dict[str, str]:
    """What a dataset's bytes depend on besides the listing and the options."""
    return {name: _version(name) for name in _LIBRARIES} | {"machine": platform.machine()}


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """OUT/.shard-work, locked against a second process for as long as the block runs.

    Raises:
        UsageError: OUT holds something else, cannot be written, or another process is at work in it.
    """
    work = out / WORK_NAME
    try:
        if not work.is_dir() and out.exists() and any(out.iterdir()):
            raise UsageError(f"{out}: not empty, and no unfinished dataset in it; choose another --out, or delete it")
        work.mkdir(parents=True, exist_ok=True)
        fd = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise unusable(out, error) from None
    try:
        _lock(fd, out)
        yield work
    finally:
        os.close(fd)


def unusable(out: Path, error: OSError) -> UsageError:
    """What to raise where OUT can be neither found nor made."""
    return UsageError(f"{out}: cannot be written ({error.strerror}); choose another --out")


def read_plan(work: Path) -> dict[str, Any] | None:
    """The stored plan, or None where this is the first run. Raises UsageError where it is not what was written."""
    path = work / "plan.json"
    try:
        plan = json.loads(path.read_bytes())
        if {"asked", "versions", "bytes_per_image"} <= plan.keys():
            return plan
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        pass
    raise UsageError(f"{path}: damaged; delete {work.parent} and start again")


def write_plan(work: Path, asked: Mapping[str, Any], bytes_per_image: int) -> None:
    """Stores what every later run must agree with."""
    write_json(work / "plan.json", {"asked": asked, "versions": versions(), "bytes_per_image": bytes_per_image})


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
            raise UsageError(f"{out}: made from other images: names or sizes in SOURCE have changed; {advice}")
        what = {"images": "number of images in SOURCE", "source": "SOURCE"}.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(f"{out}: made with another {what}: {stored.get(name)} then, {value} now; {advice}")


def remove(work: Path) -> None:
    """Removes the work folder, once the manifest stands."""
    shutil.rmtree(work)


def _lock(fd: int, out: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{out}: another vitstream shard is at work in it; wait for it, or stop it") from None
    except OSError as error:  # some network file systems know no locks
        if error.errno not in _NO_LOCKS:
            raise


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
