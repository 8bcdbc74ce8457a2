"""Checkpoints published beside training: it waits for a snapshot in host memory, a thread does the rest.

The ranks' threads agree over a process group of their own, which nothing else uses. The ranks themselves learn what
became of a checkpoint when they wait for it, all at the same step: before the next one, and at the end. So they
never have to ask each other.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from pipeline.checkpoint import commit, retention
from pipeline.checkpoint.copies import Copier
from pipeline.checkpoint.retention import Retention
from pipeline.checkpoint.snapshot import Snapshot
from pipeline.checkpoint.state import Slice
from pipeline.config import Checkpoint
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.names import one_line
from pipeline.distributed import World
from pipeline.run.published_file import PublishedFile


class Saver:
    """One rank's part in a run's checkpoints. At most one is under way."""

    def __init__(
        self,
        config: Checkpoint,
        checkpoints: Path,
        attempt: int,
        world: World,
        newest: tuple[str, int] | None,
        size: int,
        say: Callable[[str], None],
        copier: Copier | None = None,
    ) -> None:
        """All ranks at the same time.

        Args:
            newest: name and step of the checkpoint from which the run goes on.
            size: bytes that this rank writes, about.
            copier: rank 0's, of what is published.

        Raises:
            WorkFailed: there is no memory for a snapshot.
        """
        self._checkpoints, self._attempt, self._say = checkpoints, attempt, say
        self._world = world.beside()
        self._retention = Retention(config.keep_last, config.keep_every)
        self._snapshot = Snapshot(size, say) if config.asynchronous else None
        self._blocked_s = 0.0
        self._copier = copier
        self._thread: Thread | None = None
        self._outcome: WorkFailed | str | None = None  # of the thread: a failure, or what it has published
        self.published, self.step = newest or (None, 0)  # before the first step, there is nothing to save
        """The newest checkpoint's name, and the step of it or of the one under way: as all ranks know them."""

    def save(
        self, slices: list[Slice], facts: dict[str, Any], sync: Callable[[], None], what_then: str | None = None
    ) -> None:
        """Begins to publish a checkpoint, once the one before it is done with. All ranks at the same step.

        Args:
            facts: the manifest's fields; its parent is filled in.
            sync: called on rank 0 at once: puts everything up to this step onto the disk, or raises OSError. Then
                nothing is published.
            what_then: said on rank 0 after a failure; None leaves it to who waits.
        """
        began = time.perf_counter()
        self.wait()
        facts = copy.deepcopy(facts) | {"parent": self.published}
        self.step = facts["step"]
        before_writing = self._once(sync)
        if self._snapshot is None:
            self._publish(slices, facts, before_writing, what_then, began)
            return
        arguments = (self._snapshot.take(slices), facts, before_writing, what_then, began)
        self._thread = Thread(target=self._publish, args=arguments, name="checkpoint", daemon=True)
        self._blocked_s = time.perf_counter() - began
        self._thread.start()

    def wait(self) -> WorkFailed | None:
        """Waits until nothing is under way. Returns why the last checkpoint was not published, to all ranks alike."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if isinstance(self._outcome, WorkFailed):
            self.step = None
            return self._outcome
        self.published = self._outcome or self.published
        return None

    def _once(self, sync: Callable[[], None]) -> Callable[[], None]:
        """Calls it now, and raises later what it raised: where the other ranks are told."""
        problem: OSError | None = None
        if self._world.is_main:
            try:
                sync()
            except OSError as error:
                problem = error

        def again() -> None:
            if problem is not None:
                raise problem

        return again

    def _publish(
        self,
        slices: list[Slice],
        facts: dict[str, Any],
        before_writing: Callable[[], None],
        what_then: str | None,
        began: float,
    ) -> None:
        parent = facts["parent"]
        try:
            path = commit.save(self._checkpoints, self._attempt, self._world, slices, facts, before_writing)
        except Exception as error:
            known = isinstance(error, WorkFailed)
            failure = error if known else WorkFailed(one_line(f"{type(error).__name__}: {error}"))
            self._outcome = failure
            if what_then is not None:
                self._say(f"{failure}; {what_then}, the newest checkpoint is {parent or 'none yet'}")
            return
        self._outcome = path.name
        waited = "" if self._snapshot is None else f", for {self._blocked_s:.1f} s of which training waited"
        self._say(f"checkpoint {path.name} published in {time.perf_counter() - began:.1f} s{waited}")
        if self._world.is_main:
            self._tell(facts["step"])
            if parent is not None and not (self._checkpoints / parent).is_dir():
                self._say(f"{self._checkpoints / parent}, the checkpoint before it, is gone: somebody has removed it")
            if self._copier:
                self._copier.offer(path)
            self._prune()

    def _tell(self, step: int) -> None:
        told = PublishedFile.of(self._checkpoints.parent)
        try:
            told.write(step)
        except OSError as error:
            self._say(f"{told.path}: cannot be written ({error.strerror}); the checkpoint stands")

    def _prune(self) -> None:
        in_use = {self._copier.busy} if self._copier else ()
        try:
            retention.prune(self._checkpoints, self._retention, in_use)
        except OSError as error:
            self._say(f"{self._checkpoints}: an old checkpoint cannot be removed ({error.strerror}): it stays")
