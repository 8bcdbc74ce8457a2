"""Feeds the sinks of a run, on rank 0. Torch-free."""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pipeline.config import Config
from pipeline.config_sinks import Sinks
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import read_regular, write_json
from pipeline.dataset.names import one_line
from pipeline.run.directory import RunDirectory
from pipeline.run.metrics import lines_of_steps
from pipeline.sinks.sink import Place, Sink, place_of, values_of
from pipeline.sinks.tensorboard import TensorBoard
from pipeline.sinks.wandb import WeightsAndBiases

_KEEP_S: Final = 30.0  # between two notes of what they have; what is not noted is given again


def check_installed(sinks: Sinks) -> None:
    """Raises UsageError where a package is missing."""
    for name in ("tensorboard", "wandb"):
        if getattr(sinks, name):
            try:
                version(name)
            except PackageNotFoundError:
                raise UsageError(f"sinks.{name}: is not installed: pip install 'vitstream[{name}]'") from None


class Feed:
    """All sinks of this attempt. One that fails is left alone from then on, which is said once; training goes on."""

    def __init__(self, sinks: Iterable[Sink], run: RunDirectory, first_step: int, say: Callable[[str], None]) -> None:
        """Opens them, for a run that goes on after `first_step` steps, and gives them what they lack up to there."""
        self._note, self._say, self._noted = run.sinks, say, time.monotonic()
        self._kept = _read(self._note)
        self._open = list(sinks)
        for sink in list(self._open):
            self._try(sink, lambda sink=sink: self._begin(sink, run.metrics, first_step))
        self._keep()

    @classmethod
    def of(cls, config: Config, run: RunDirectory, first_step: int, say: Callable[[str], None]) -> "Feed":
        sinks: list[Sink] = []
        if folder := config.sinks.tensorboard:
            sinks.append(TensorBoard((run.path / "tensorboard" if folder is True else folder).resolve()))
        if config.sinks.wandb:
            sinks.append(WeightsAndBiases(config.sinks.wandb, run.path, config.to_checkpoint()))
        return cls(sinks, run, first_step, say)

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Lines of metrics.jsonl that have been written there."""
        for sink in list(self._open):
            self._try(sink, lambda sink=sink: _give(sink, lines))
        if self._open and time.monotonic() - self._noted > _KEEP_S:
            self._keep()

    def close(self) -> None:
        for sink in list(self._open):
            self._try(sink, sink.close)
        if self._open:
            self._keep()

    def _begin(self, sink: Sink, metrics: Path, first_step: int) -> None:
        after = sink.begin(self._kept.get(sink.name, {}), first_step)
        newest: dict[tuple[Place, str], dict] = {}  # of a repeated step the last line counts
        for line in lines_of_steps(metrics, range(max(0, after[0]), first_step + 1)):
            newest[place_of(line), line.get("eval", "")] = line
        _give(sink, [line for (place, _), line in sorted(newest.items()) if place > after])

    def _try(self, sink: Sink, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # whatever: these are other people's libraries, disks and networks
            self._open.remove(sink)
            why = one_line(f"{type(error).__name__}: {error}")
            self._say(f"sinks.{sink.name}: {why}; it gets nothing more in this attempt, training goes on")

    def _keep(self) -> None:
        self._noted = time.monotonic()
        self._kept |= {sink.name: sink.keep() for sink in self._open}
        with suppress(OSError):  # then they get some of it again
            write_json(self._note, self._kept)


def _give(sink: Sink, lines: Iterable[dict[str, Any]]) -> None:
    given = False
    for line in lines:
        sink.write(place_of(line), line.get("time"), values_of(line))
        given = True
    if given:
        sink.flush()


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        value = json.loads(read_regular(path))
        if isinstance(value, dict):
            return value
    return {}
