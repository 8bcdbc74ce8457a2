"""Where a step's wait for data went, what the loaders could give, and what helps. Torch-free.

    wait = copy, which the rank does itself and measures, + the rest, for workers, shared out between read and
           decode in the ratio of the seconds that they spent on either

All are seconds of wall time. Reading or decoding is too slow only where the loaders could not feed much more than is
trained. Where they could, they are waited for since they are uneven, and a longer ring evens it out.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import Config

TOLERATED = 0.01  # of a step's time
STAGES = ("read", "decode", "copy")
_JUDGED_S = 5.0  # of steps, before anything is said of them: one slow step says little
_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 3600.0  # before the same is said again
_ALL_BUSY = 0.9  # of the cores
_HEADROOM = 1.25  # times what is trained: with less, the loaders are what training waits for


class Times(Protocol):
    """What a micro-batch took, of the worker that took longest (data/batch.py)."""

    read_s: float
    decode_s: float
    copy_s: float
    images: int


@dataclass(frozen=True)
class Waits:
    """A rank's step: what it waited for, by stage, and seconds of its slowest worker per image."""

    read_s: float = 0.0
    decode_s: float = 0.0
    copy_s: float = 0.0
    worker_s_per_image: float = 0.0

    @property
    def stages(self) -> tuple[float, float, float]:
        return self.read_s, self.decode_s, self.copy_s

    @property
    def total_s(self) -> float:
        return sum(self.stages)


def split(waits_s: Sequence[float], times: Sequence[Times]) -> Waits:
    """A rank's step: what it waited for each micro-batch, and what each took."""
    read = decode = copy = busy = 0.0
    for wait_s, took in zip(waits_s, times, strict=True):
        copied = min(took.copy_s, wait_s)
        work = took.read_s + took.decode_s
        share = took.read_s / work if work > 0 else 0.0
        read += (wait_s - copied) * share
        decode += (wait_s - copied) * (1 - share)
        copy += copied
        busy += work
    images = sum(took.images for took in times)
    return Waits(read, decode, copy, busy / images if images else 0.0)


def could_feed(worker_s_per_image: float, world_size: int) -> float | None:
    """Images per second of all ranks together, if each were as slow as the slowest; None where it is not known.

    A rank's workers share each micro-batch, so it is there when the slowest has done its part; and ranks go in step.
    """
    return world_size / worker_s_per_image if worker_s_per_image > 0 else None


def mean_could_feed(lines: Iterable[dict[str, Any]]) -> float | None:
    """`loader_images_per_s` over several lines of metrics.jsonl: all images, by the time that those would take."""
    known = [line for line in lines if line["loader_images_per_s"]]
    images = sum(line["images_per_s"] * line["step_s"] for line in known)
    seconds = sum(line["images_per_s"] * line["step_s"] / line["loader_images_per_s"] for line in known)
    return images / seconds if seconds else None


@dataclass
class Watch:
    """Says what to do about a wait for data, seldom enough to be read. Its clock is the time that steps took."""

    config: Config
    remote: bool  # whether some of the data comes from afar
    _now: float = 0.0
    _begun: bool = False
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _said: dict[str, tuple[float, float]] = field(default_factory=dict)  # stage -> when again, pause after that

    def __post_init__(self) -> None:
        self._cores = Cores()

    def see(self, lines: list[dict[str, Any]]) -> str | None:
        """Takes a flush's lines of metrics.jsonl. Returns what is to be said, if anything."""
        if not self._begun:  # these steps waited for the start of everything
            self._begun = True
            return None
        self._lines += lines
        step_s = sum(line["step_s"] for line in self._lines)
        if step_s < _JUDGED_S:
            return None
        waits = [sum(line[f"data_{stage}_s"] for line in self._lines) for stage in STAGES]
        headroom, busy = headroom_of(self._lines), self._cores.busy()
        self._lines, self._now = [], self._now + step_s
        if sum(waits) <= TOLERATED * step_s:
            return None
        cause = cause_of(waits, headroom, self.config.loader.workers)
        again, pause = self._said.get(cause, (0.0, _PAUSE_S))
        if self._now < again:
            return None
        self._said[cause] = self._now + pause, min(2 * pause, _LONGEST_PAUSE_S)
        share = sum(waits) / step_s
        return advice(cause, share, headroom, self.config, self.remote, self._cores.number, busy)


def headroom_of(lines: Sequence[dict[str, Any]]) -> float | None:
    """What the loaders could feed over several lines of metrics.jsonl, in multiples of what was trained."""
    could = mean_could_feed(lines)
    trained = sum(line["images_per_s"] * line["step_s"] for line in lines) / sum(line["step_s"] for line in lines)
    return could / trained if could else None


def cause_of(waits: Sequence[float], headroom: float | None, workers: int) -> str:
    """The stage that is too slow; or that the loaders are `uneven`; or that the rank loads `alone`.

    Args:
        waits: seconds of read, decode, copy.
        headroom: as `headroom_of` says; None where that is not known.
        workers: of a rank.
    """
    stage = dominating(waits)
    if stage == "copy":
        return stage
    if workers == 0:
        return "alone"
    return "uneven" if headroom is not None and headroom >= _HEADROOM else stage


def advice(
    cause: str, share: float, headroom: float | None, config: Config, remote: bool, cores: int, busy: float | None
) -> str:
    """What to say of a wait for data: the cause, and the remedy.

    Args:
        cause: of `cause_of`.
        share: of the steps' time that was waited.
        headroom: as `headroom_of` says.
        remote: whether some of the data comes from afar.
        cores: that this process may use.
        busy: how many of those were at work, if known.
    """
    idle = busy is None or busy < _ALL_BUSY * cores
    at_work = f"{cores} cores here" if busy is None else f"{busy:.0f} of {cores} cores are busy"
    if cause == "uneven":
        why = f"though loaders could feed {headroom:.1f} times as much: {_evening(config)}"
    elif cause == "alone":
        why = "as the ranks load their images themselves: raise loader.workers (now 0)"
    elif cause == "read":
        why = f"mostly read: {_reading(config, remote)}"
    elif cause == "decode":
        why = f"mostly decode: {_decoding(config, idle, at_work)}"
    else:
        why = f"mostly copy: {_copying(config, idle, at_work)}"
    return f"data wait is {share:.{0 if share >= 0.1 else 1}%} of the step, {why}"


def dominating(waits: Sequence[float]) -> str:
    """The stage that took most."""
    return STAGES[max(range(len(STAGES)), key=lambda n: waits[n])]


class Cores:
    """The processor cores that this process may use, and how many of them are at work, whoever's the work is."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat, self._usable = stat, os.sched_getaffinity(0)
        self._before = self._read()

    @property
    def number(self) -> int:
        return len(self._usable)

    def busy(self) -> float | None:
        """Cores at work, on average since the last call; None where the system does not say."""
        before, self._before = self._before, self._read()
        if not before or not self._before:
            return None
        total, idle = (now - earlier for now, earlier in zip(self._before, before, strict=True))
        return self.number * (1 - idle / total) if total > 0 else None

    def _read(self) -> tuple[int, int] | None:
        """Ticks of the usable cores since the system's start: (all, idle ones)."""
        try:
            lines = [line.split() for line in self._stat.read_text().splitlines()]
            ours = [line[1:9] for line in lines if line[0][3:].isdigit() and int(line[0][3:]) in self._usable]
            ticks = [list(map(int, numbers)) for numbers in ours]
            return sum(map(sum, ticks)), sum(core[3] + core[4] for core in ticks)  # idle, iowait: proc(5)
        except (OSError, ValueError, IndexError):
            return None


def _reading(config: Config, remote: bool) -> str:
    loader = config.loader
    if loader.name == "mosaic":
        return (
            f"raise loader.workers (now {loader.workers} per rank), or keep the shards on the node's disk: data.cache"
        )
    more = f"raise loader.reads (now {loader.reads}) or loader.read_ahead (now {loader.read_ahead})"
    if config.data.cache is not None:
        return f"{more}; until data.cache is filled, the storage's speed counts"
    return f"{more}, or keep the shards on the node's disk with data.cache" + ("" if remote else ", if that is faster")


def _decoding(config: Config, idle: bool, at_work: str) -> str:
    smaller = "store smaller images (vitstream shard --size) or augment less"
    if idle:
        return f"raise loader.workers (now {config.loader.workers} per rank; {at_work}), or {smaller}"
    return f"{smaller}; more workers would not help ({at_work})"


def _copying(config: Config, idle: bool, at_work: str) -> str:
    if idle:
        each = "each micro-batch takes the rank itself some time"
        return f"{each}: fewer and larger ones take less, raise micro_batch_size (now {config.micro_batch_size})"
    workers = config.loader.workers
    remedy = f"lower loader.workers (now {workers} per rank)" if workers > 1 else "give them more cores"
    return f"the ranks find no core free ({at_work}): {remedy}"


def _evening(config: Config) -> str:
    why = "at times they take longer, or a step takes more micro-batches than are made ahead"
    return f"{why}: raise loader.prefetch (now {config.loader.prefetch})"
