"""DIR/.dedup-work: what was asked for and the hashes of the shards that are done, kept until the result stands.

asked.json   what a later run has to ask for too
corpus/      the parts of DATASET (scan.py)
against-N/   those of evaluation set N
lock         held by the process that works here
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json

WORK_NAME: Final = ".dedup-work"
_ADVICE: Final = "ask for the same, choose another --out, or delete it"


@contextmanager
def work_folder(out: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """The folder, made if missing, locked while the block runs.

    Raises:
        UsageError: DIR holds something else, or what was asked for differently; it cannot be written; another process
            is at work in it.
    """
    work = out / WORK_NAME
    try:
        if not work.is_dir() and out.exists() and any(out.iterdir()):
            raise UsageError(f"--out {out}: not empty, and no unfinished de-duplication in it; choose another folder")
        work.mkdir(parents=True, exist_ok=True)
        fd = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); choose another") from None
    try:
        with suppress(OSError):  # some network file systems know no locks
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"--out {out}: another vitstream dedup is at work in it; wait for it, or stop it"
                raise UsageError(message) from None
        _agree(out, work / "asked.json", asked)
        yield work
    finally:
        os.close(fd)


def check_same(out: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UsageError naming the first thing in which `now` differs from what DIR was made for."""
    for name, value in now.items():
        if stored.get(name) != value:
            option = {"dataset": "DATASET", "against": "--dedup-against"}.get(name, f"--{name.replace('_', '-')}")
            then = json.dumps(stored.get(name), ensure_ascii=False)
            told = f"{option} {then} then, {json.dumps(value, ensure_ascii=False)} now"
            raise UsageError(f"--out {out}: made for other arguments ({told}); {_ADVICE}")


def _agree(out: Path, path: Path, asked: Mapping[str, Any]) -> None:
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError
    except FileNotFoundError:
        write_json(path, dict(asked))
        return
    except (OSError, ValueError):
        raise UsageError(f"{path}: damaged; delete {path.parent} and start again") from None
    check_same(out, stored, asked)
