"""Watches over an attempt's ranks, for whoever has started them: on this machine, or on a cluster. Torch-free."""

import os
import time
from contextlib import suppress
from pathlib import Path

from pipeline.config import Config
from pipeline.data.giving_up import patience_s
from pipeline.run.beat import Beat, read_beats
from pipeline.run.watchdog import LOOK_S, Late, Watchdog


class Lookout:
    """To be made when the ranks are started, and to be asked again and again."""

    def __init__(self, attempt: Path, config: Config, ranks: int) -> None:
        self._attempt = attempt
        data = config.data
        self._watchdog = Watchdog(config.watchdog, ranks, patience_s(data.retry_s, cached=data.cache is not None))
        self._next = 0.0
        self.beats: dict[int, Beat] = {}  # the ranks' last

    def look(self) -> Late | None:
        """The rank that has stopped, where one has. It looks at most once a second."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + LOOK_S
        self.beats |= read_beats(self._attempt)
        late = self._watchdog.late(self.beats, time.monotonic())
        if late is not None and late.silent and not self._can_be_written():
            self._watchdog.forgive(time.monotonic())
            return None
        return late

    def last_beats(self) -> dict[int, Beat]:
        """As they are now."""
        self.beats |= read_beats(self._attempt)
        return self.beats

    def _can_be_written(self) -> bool:
        """Whether a rank that lives could tell: on a full disk all of them are silent, and train on."""
        probe = self._attempt / f".probe-{os.getpid()}"
        try:
            with probe.open("wb") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            return True
        except OSError:
            return False
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
