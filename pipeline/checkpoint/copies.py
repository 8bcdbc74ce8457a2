"""Published checkpoints, copied elsewhere while training goes on: files first, the manifest last. Torch-free."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.checkpoint.manifest import MANIFEST_NAME, read_checkpoint_manifest
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import atomic_file, remove_abandoned
from pipeline.dataset.location import Location
from pipeline.dataset.names import one_line


class Copier:
    """Copies one checkpoint at a time; of those that wait meanwhile, the newest first. A failure is a line."""

    def __init__(self, target: Location, say: Callable[[str], None]) -> None:
        """`target`: a folder or an s3:// or gs:// URL, below which each checkpoint gets its own name."""
        self._target, self._say = target, say
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting: list[Path] = []
        self.busy: Path | None = None  # what is being copied: it must stay until then

    @classmethod
    def of(cls, copy_to: Path | str | None, say: Callable[[str], None]) -> "Copier | None":
        """Of a run's `checkpoint.copy_to`."""
        return None if copy_to is None else cls(Location.of(copy_to), say)

    def offer(self, *checkpoints: Path) -> None:
        """Copies them (given oldest first), now or after the one under way. Those that are there are left alone."""
        with self._lock:
            self._waiting += checkpoints
            if self._waiting and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint-copy", daemon=True)
                self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Until nothing is left to copy, but no longer than that. Returns whether nothing is left."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._lock:
                self.busy = self._waiting.pop() if self._waiting else None
                if self.busy is None:
                    self._thread = None
                    return
            if not self.busy.is_dir():  # pruned while it waited
                continue
            where = self._target / self.busy.name
            try:
                if copy_checkpoint(self.busy, where):
                    self._say(f"checkpoint {self.busy.name} copied to {where}")
            except Exception as error:  # of half a dozen libraries; training has nothing to do with it
                known = isinstance(error, UsageError | WorkFailed)
                reason = str(error) if known else f"{where}: {one_line(f'{type(error).__name__}: {error}')}"
                self._say(f"checkpoint {self.busy.name} was not copied: {reason}; the next start tries again")


def copy_checkpoint(checkpoint: Path, target: Location) -> bool:
    """Copies a published checkpoint to `target`. Returns whether there was anything to do.

    Raises:
        UsageError: another checkpoint is there, which stays; or a server refuses.
        OSError, WorkFailed, Damaged: what is there then has no manifest, and is not used.
    """
    written = (checkpoint / MANIFEST_NAME).read_bytes()
    try:
        there = (target / MANIFEST_NAME).read()
        if there == written:
            return False
        if _hash_in(there) not in (None, _hash_in(written)):
            raise UsageError(f"{target}: another checkpoint is there, and stays: take another checkpoint.copy_to")
        _remove(target / MANIFEST_NAME)  # it is damaged: without it, what is there is no checkpoint
    except FileNotFoundError:
        pass
    for file in read_checkpoint_manifest(checkpoint).files:
        _copy(checkpoint / file["name"], target / file["name"])
    _copy(checkpoint / MANIFEST_NAME, target / MANIFEST_NAME)
    return True


def _hash_in(manifest: bytes) -> str | None:
    """What a manifest says its own hash is; None where it is none that can be read."""
    try:
        return json.loads(manifest)["self_sha256"]
    except (ValueError, KeyError, TypeError):
        return None


def _copy(file: Path, target: Location) -> None:
    if target.is_remote:
        from pipeline.dataset.remote.uploads import put_file

        put_file(file, target.text)
        return
    target.path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.path)
    with file.open("rb") as source, atomic_file(target.path) as copy:
        shutil.copyfileobj(source, copy, 2**22)


def _remove(target: Location) -> None:
    if target.is_remote:
        from pipeline.dataset.remote.uploads import remove

        remove(target.text)
    else:
        target.path.unlink()
