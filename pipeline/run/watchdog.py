"""Which rank of a run has stopped, told from the ranks' beats. Pure: the reader brings beats and its own clock.

Two ways to be late:

    silent      no new line was seen for `silent_s`: the process, or its machine, has stopped
    slow        its phase lasts longer than the limit, which follows from how long that phase took so far

A rank that waits for the others is not slow; where all of them wait, they are. Of several, the one is named that went
silent, else the one that does not wait, else the one that has got least far, else the one that has been there longest.

Times are the reader's, on a clock that it brings. Where it was itself held up (a file system that stood still, a
terminal's Ctrl-Z, which stops everybody), it has seen nothing, and that time counts for nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from pipeline.config_tree import Section
from pipeline.run.beat import Beat
from pipeline.run.verdict import Phase

LOOK_S: Final = 1.0  # between two looks, about
_QUIET_S: Final = 5.0  # without a beat, after which a rank is the first to be suspected
_LONG: Final = 3.0  # times what a phase took so far: never too long, whatever `first_s` says
_GAP_S: Final = 5.0  # between two looks, after which the reader was held up itself

Seconds = Annotated[float, Field(gt=0, le=1e9)]


class Limits(Section):
    """When a rank is late: RUN.yaml's section `watchdog`."""

    enabled: bool = True
    silent_s: Seconds = 60.0  # without a sign of life
    factor: Annotated[float, Field(ge=1, le=1e6)] = 10.0  # times the longest that the phase took so far, of any rank
    least_s: Seconds = 60.0  # which is always allowed
    first_s: Seconds = 600.0  # the first time, and at most
    setup_s: Seconds = 1800.0  # until the first step; also for the first save

    def of(self, phase: Phase, longest_s: float | None, data_s: float = 0.0) -> float:
        """Seconds that a phase may last.

        Args:
            longest_s: that it took so far, of any rank; None: it was never seen to end.
            data_s: for which the loader itself waits for a storage.
        """
        if phase == "setup":
            return self.setup_s
        if phase == "save":  # training mostly waits for a copy only, and at times for the disk
            least, most = max(self.least_s, self.first_s), max(self.least_s, self.first_s, self.setup_s)
        else:
            least, most = self.least_s, max(self.least_s, self.first_s)
        limit = most if longest_s is None else max(min(max(self.factor * longest_s, least), most), _LONG * longest_s)
        return max(limit, data_s + self.least_s) if phase in ("data", "evaluate") else limit

    def of_silence(self, phase: Phase) -> float:
        """Seconds without a beat. While a rank starts, a library that is loaded may hold the interpreter for long."""
        return max(self.silent_s, self.first_s) if phase == "setup" else self.silent_s


@dataclass(frozen=True)
class Late:
    """The rank that the others wait for."""

    rank: int
    host: str | None  # None where it has never said a word, and nobody else knows
    pid: int | None  # None of a rank that has never said a word
    phase: Phase
    step: int | None  # optimizer steps done
    for_s: float  # without a sign of life where it is silent, else in its phase
    silent: bool
    limit_s: float  # of that

    def __str__(self) -> str:
        if self.pid is None:
            host = f" on {self.host}" if self.host else ""
            return f"rank {self.rank}{host} has given no sign of life since the start {self.for_s:.0f} s ago"
        done = "" if self.step is None else f" after step {self.step:,}"
        where = f"rank {self.rank} on {self.host} (process {self.pid})"
        if self.silent:
            return f"{where} has given no sign of life for {self.for_s:.0f} s, in phase {self.phase}{done}"
        return f"{where} hangs in phase {self.phase}{done}, for {self.for_s:.0f} s (allowed: {self.limit_s:.0f} s)"


@dataclass
class _Seen:
    """A rank, as the reader has seen it, by the reader's clock."""

    beat: Beat
    changed: float  # when its line was another for the last time
    entered: float  # when it was first seen in its phase


class Watchdog:
    """One attempt's. To be asked every second or so, from the attempt's start on: the first question is the start."""

    def __init__(self, limits: Limits, ranks: int, data_s: float = 0.0) -> None:
        """`data_s`: seconds for which the loader waits for a storage before it gives up by itself."""
        self.limits, self._ranks, self._data_s = limits, ranks, data_s
        self._seen: dict[int, _Seen] = {}
        self._began: float | None = None
        self._looked: float | None = None
        # A rank that stops while the others are about to be late must have gone quiet before they are.
        self._quiet_s = min(_QUIET_S, limits.silent_s)
        self._gap_s = min(_GAP_S, limits.silent_s / 2)

    def late(self, beats: Mapping[int, Beat], now: float) -> Late | None:
        """The rank to blame, where one is late. `now` is a monotonic clock of the reader's, in seconds."""
        self._look(beats, now)
        if not self.limits.enabled:
            return None
        alive = [seen for seen in self._seen.values() if not seen.beat.ended]
        late = [self._silent(seen, now) for seen in alive if self._is_silent(seen, now)]
        missing = [rank for rank in range(self._ranks) if rank not in self._seen]
        began = now if self._began is None else self._began
        if missing and now - began > self.limits.setup_s:
            late.append(Late(missing[0], None, None, "setup", None, now - began, True, self.limits.setup_s))
        slow = [seen for seen in alive if not seen.beat.waits and self._is_slow(seen, now)]
        if not slow and not missing and all(seen.beat.waits and self._is_slow(seen, now) for seen in alive):
            slow = alive  # they wait for each other
        if not late and slow:
            quiet = [seen for seen in alive if now - seen.changed > self._quiet_s]
            late = [self._silent(seen, now) for seen in quiet]
        if late:
            return min(late, key=lambda each: (-each.for_s, each.rank))
        if not slow:
            return None
        worst = min(slow, key=lambda s: (s.beat.waits, s.beat.entered, s.entered, s.beat.rank))
        limit = self._limit(worst.beat.phase)
        return _late(worst.beat, now - worst.entered, silent=False, limit_s=limit)

    def forgive(self, now: float) -> None:
        """Nobody could have told anything until now: everybody's time begins anew."""
        self._began = now
        for seen in self._seen.values():
            seen.changed = seen.entered = now

    def _look(self, beats: Mapping[int, Beat], now: float) -> None:
        """Takes in what is seen now, and leaves out a time in which nothing was seen."""
        self._began = now if self._began is None else self._began
        gap = now - (now if self._looked is None else self._looked)
        self._looked = now
        if gap > self._gap_s:
            self._began += gap
            for seen in self._seen.values():
                seen.changed += gap
                seen.entered += gap
        for rank, beat in beats.items():
            before = self._seen.get(rank)
            if before is None or before.beat.entered != beat.entered or before.beat.pid != beat.pid:
                self._seen[rank] = _Seen(beat, now, now)
            elif before.beat != beat:
                # Who waited, and does no more, has what it waited for only now.
                entered = now if before.beat.waits and not beat.waits else before.entered
                self._seen[rank] = _Seen(beat, now, entered)

    def _limit(self, phase: Phase) -> float:
        measured = [s.beat.longest[phase] for s in self._seen.values() if phase in s.beat.longest]
        return self.limits.of(phase, max(measured, default=None), self._data_s)

    def _is_slow(self, seen: _Seen, now: float) -> bool:
        return now - seen.entered > self._limit(seen.beat.phase) + 1.5 * self._quiet_s

    def _is_silent(self, seen: _Seen, now: float) -> bool:
        return now - seen.changed > self.limits.of_silence(seen.beat.phase)

    def _silent(self, seen: _Seen, now: float) -> Late:
        return _late(seen.beat, now - seen.changed, silent=True, limit_s=self.limits.of_silence(seen.beat.phase))


def _late(beat: Beat, for_s: float, silent: bool, limit_s: float) -> Late:
    return Late(beat.rank, beat.host, beat.pid, beat.phase, beat.step, round(for_s, 1), silent, limit_s)
