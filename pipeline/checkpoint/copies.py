"""Published checkpoints, copied elsewhere while training goes on: files first, the manifest last. Torch-free."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.checkpoint.manifest import MANIFEST_NAME, read_checkpoint_manifest
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import atomic_file
from pipeline.dataset.location import Location


class Copier:
    """Copies one checkpoint at a time; of those that wait meanwhile, the newest. A failure is said, and that is all."""

    def __init__(self, target: Location, say: Callable[[str], None]) -> None:
        """`target`: a folder or an s3:// or gs:// URL, below which each checkpoint gets its own name."""
        self._target, self._say = target, say
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next: Path | None = None
        self.busy: Path | None = None  # what is being copied: it must stay until then

    def offer(self, checkpoint: Path) -> None:
        """Copies it, now or after the one under way. One that is there already is left alone."""
        with self._lock:
            self._next = checkpoint
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint-copy", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Until nothing is left to copy."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                self.busy, self._next = self._next, None
                if self.busy is None:
                    self._thread = None
                    return
            where = self._target / self.busy.name
            try:
                if copy_checkpoint(self.busy, where):
                    self._say(f"checkpoint {self.busy.name} copied to {where}")
            except Exception as error:  # of half a dozen libraries; training has nothing to do with it
                known = isinstance(error, UsageError | WorkFailed)
                reason = str(error) if known else f"{where}: {type(error).__name__}: {error}"
                self._say(f"checkpoint {self.busy.name} was not copied: {reason}; training goes on")


def copy_checkpoint(checkpoint: Path, target: Location) -> bool:
    """Copies a published checkpoint to `target`. Returns whether there was anything to do.

    Raises:
        OSError, UsageError, WorkFailed, Damaged: what is there then has no manifest, and is not used.
    """
    written = (checkpoint / MANIFEST_NAME).read_bytes()
    try:
        if (target / MANIFEST_NAME).read() == written:
            return False
        _remove(target / MANIFEST_NAME)  # another checkpoint of this step: without it, it is none
    except FileNotFoundError:
        pass
    for file in read_checkpoint_manifest(checkpoint).files:
        _copy(checkpoint / file["name"], target / file["name"])
    _copy(checkpoint / MANIFEST_NAME, target / MANIFEST_NAME)
    return True


def _copy(file: Path, target: Location) -> None:
    if target.is_remote:
        from pipeline.dataset.remote.uploads import put_file

        put_file(file, target.text)
        return
    target.path.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as source, atomic_file(target.path) as copy:
        shutil.copyfileobj(source, copy, 2**22)


def _remove(target: Location) -> None:
    if target.is_remote:
        from pipeline.dataset.remote.uploads import remove

        remove(target.text)
    else:
        target.path.unlink()
