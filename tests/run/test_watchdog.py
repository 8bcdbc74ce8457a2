"""The watchdog: healthy runs never alarm it, and of those that stop it names the rank that has."""

from bisect import bisect_right
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.run.beat import Beat
from pipeline.run.verdict import Phase
from pipeline.run.watchdog import Late, Limits, Watchdog

pytestmark = pytest.mark.fast

LIMITS = Limits(silent_s=6, factor=4, least_s=5, first_s=15, setup_s=30)
DATA_S = 7.0


@dataclass
class Life:
    """One rank's: what it does from when on."""

    rank: int
    starts: list[float] = field(default_factory=list)
    entries: list[tuple[Phase, bool, dict[str, float], int]] = field(default_factory=list)
    stops: float = float("inf")

    def does(self, at: float, phase: Phase, waits: bool, longest: dict[str, float]) -> None:
        if at < self.stops:
            before = self.entries[-1][3] if self.entries else -1
            self.starts.append(at)
            self.entries.append((phase, waits, dict(longest), before + (not waits)))

    def beat(self, at: float) -> Beat | None:
        """Its last line at that time: it writes one every second."""
        wrote = int(min(at, self.stops))
        last = bisect_right(self.starts, wrote) - 1
        if last < 0:
            return None
        phase, waits, longest, entered = self.entries[last]
        since = self.starts[last]
        return Beat(self.rank, "host", 1000 + self.rank, phase, 7, entered, since, wrote, waits, False, longest)


def world(
    ranks: int, rounds: list[list[float]], stops: tuple[int, float] | None = None, hangs_at: int | None = None
) -> tuple[list[Life], float]:
    """Ranks that train as ours do, each phase as long as a share of what it may be. Returns them and the end.

    Args:
        rounds: of each: shares for the ranks' data, the step, and the ranks' save (0: there is none).
        stops: a rank that is stopped, and when.
        hangs_at: the round in which the rank of `stops` never gets its data, though it lives.
    """
    lives = [Life(rank) for rank in range(ranks)]
    if stops and hangs_at is None:
        lives[stops[0]].stops = stops[1]
    longest: dict[str, float] = {}
    now = [0.0] * ranks

    def works(rank: int, phase: Phase, share: float) -> None:
        lives[rank].does(now[rank], phase, False, longest)
        now[rank] += min(share * LIMITS.of(phase, longest.get(phase), DATA_S), 60.0)

    def all_meet() -> float:
        """inf where one of them never comes."""
        return max(float("inf") if at >= life.stops else at for at, life in zip(now, lives, strict=True))

    for number, shares in enumerate([[1.0] * 9, *rounds]):
        for rank in range(ranks):
            began = now[rank]
            phase: Phase = "data" if number else "setup"
            works(rank, phase, shares[rank])
            if number == hangs_at and stops and rank == stops[0]:
                now[rank] = float("inf")
            if now[rank] < float("inf"):
                longest[phase] = max(longest.get(phase, 0.0), now[rank] - began)
            if number:
                lives[rank].does(now[rank], "data", True, longest)
        meet = all_meet() if number else max(now)
        if meet == float("inf"):
            break
        if not number:
            continue
        now = [meet] * ranks
        for rank in range(ranks):
            works(rank, "step", shares[4])
        longest["step"] = max(longest.get("step", 0), max(now) - meet)
        if all_meet() == float("inf"):
            break
        if shares[5] > 0:
            for rank in range(ranks):
                began = now[rank]
                works(rank, "save", shares[5 + rank])
                longest["save"] = max(longest.get("save", 0), now[rank] - began)
    return lives, max(at for at in now if at < float("inf"))


def ask(lives: list[Life], until: float, every: float = 1.0, after: float = 0.0) -> tuple[Late | None, float]:
    """What a watchdog says that looks every so often, and when."""
    watchdog, at = Watchdog(LIMITS, len(lives), DATA_S), after
    while at < until:
        beats = {life.rank: beat for life in lives if (beat := life.beat(at))}
        if late := watchdog.late(beats, 5e5 + at):
            return late, at
        at += every
    return None, at


SHARES = st.lists(st.floats(0, 1), min_size=9, max_size=9)
ROUNDS = st.lists(SHARES, min_size=1, max_size=3)
RANKS = st.integers(1, 4)
EVERY = st.floats(0.5, 2.0)


@settings(max_examples=60, deadline=None)
@given(RANKS, ROUNDS, EVERY)
def test_healthy_ranks_never_alarm_it(ranks: int, rounds: list[list[float]], every: float) -> None:
    lives, end = world(ranks, rounds)
    assert ask(lives, end, every)[0] is None


@settings(max_examples=60, deadline=None)
@given(RANKS, ROUNDS, EVERY, st.data())
def test_the_rank_that_stopped_is_named(ranks: int, rounds: list[list[float]], every: float, data: st.DataObject):
    _, end = world(ranks, rounds)
    victim, at = data.draw(st.integers(0, ranks - 1)), data.draw(st.floats(1.0, max(end - 1.0, 1.0)))
    lives, _ = world(ranks, rounds, (victim, at))
    late, seen = ask(lives, at + 100, every)
    assert late is not None and late.rank == victim and late.silent
    assert seen >= at + LIMITS.least_s - 2, "not before anybody could know"
    silence = LIMITS.of_silence(late.phase)
    assert seen <= at + silence + 2 * every + 1.1
    assert str(victim) in str(late) and "sign of life" in str(late)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), ROUNDS, EVERY, st.data())
def test_the_rank_whose_data_never_come_is_named(ranks: int, rounds: list[list[float]], every: float, data):
    victim, number = data.draw(st.integers(0, ranks - 1)), data.draw(st.integers(1, len(rounds)))
    lives, _ = world(ranks, rounds, (victim, 0.0), hangs_at=number)
    late, _ = ask(lives, 3e3, every)
    assert late is not None and (late.rank, late.phase, late.silent) == (victim, "data", False)
    assert late.limit_s >= DATA_S + LIMITS.least_s and late.for_s > late.limit_s
    assert "hangs in phase data after step 7" in str(late)


@settings(max_examples=60, deadline=None)
@given(RANKS, ROUNDS, st.floats(0, 1), st.floats(0, 1e6))
def test_a_time_in_which_nobody_could_see_counts_for_nobody(ranks, rounds, share, slept):
    """Ctrl-Z for the whole run; or a file system that stood still for the reader and the ranks."""
    lives, end = world(ranks, rounds)
    when, watchdog, gone, at = share * end, Watchdog(LIMITS, ranks, DATA_S), 0.0, 0.0
    while at < end:
        beats = {life.rank: beat for life in lives if (beat := life.beat(at))}
        assert watchdog.late(beats, at + gone) is None
        at += 1.0
        if at > when and not gone:
            gone = slept


def alive(rank: int, phase: Phase = "step", **changes: object) -> Beat:
    beat = Beat(rank, f"node{rank}", 10 + rank, phase, 3, 5, 0.0, 0.0, False, False, {"step": 1.0, "data": 0.1})
    return replace(beat, **changes)


def look(beats: dict[int, Beat], seconds: int, ranks: int, beating: bool = True) -> Late | None:
    watchdog = Watchdog(LIMITS, ranks, 0.0)
    for now in range(seconds):
        late = watchdog.late({r: replace(b, beat=float(now) if beating else 0.0) for r, b in beats.items()}, now)
        if late:
            return late
    return None


def test_a_rank_of_which_nothing_was_ever_heard() -> None:
    late = look({0: alive(0, "data", waits=True)}, 200, ranks=2)
    assert late == Late(1, None, None, "setup", None, 31, True, 30)
    assert str(late) == "rank 1 has given no sign of life since the start 31 s ago"


def test_of_two_in_the_same_step_the_one_that_is_a_phase_behind() -> None:
    late = look({0: alive(0), 1: alive(1, entered=4)}, 200, ranks=2)
    assert late and (late.rank, late.silent, late.limit_s) == (1, False, 5)


def test_where_all_wait_for_each_other_they_hang() -> None:
    assert look({0: alive(0, "data", waits=True), 1: alive(1, "data", waits=True, entered=4)}, 200, ranks=2).rank == 1


def test_who_waits_for_one_that_is_busy_does_not_hang() -> None:
    assert look({0: alive(0, "save"), 1: alive(1, "data", waits=True)}, 30, ranks=2) is None


def test_one_that_has_ended_may_be_silent() -> None:
    assert look({0: alive(0, ended=True), 1: alive(1, ended=True)}, 500, ranks=2, beating=False) is None


def test_it_can_be_switched_off() -> None:
    watchdog = Watchdog(Limits(enabled=False), 2)
    assert all(watchdog.late({}, now) is None for now in range(0, 10_000, 2))


def test_silence_is_forgiven_where_nobody_could_tell() -> None:
    watchdog = Watchdog(LIMITS, 1)
    for now in range(22):
        late = watchdog.late({0: alive(0)}, now)
        assert (late is not None) == (now in (7, 14, 21)), now
        if late:
            assert late.silent
            watchdog.forgive(now)


@given(st.sampled_from(["data", "step", "evaluate", "save"]), st.none() | st.floats(0, 1e5), st.floats(0, 1e4))
def test_a_limit_is_never_less_than_what_was_seen(phase: Phase, longest: float | None, data_s: float) -> None:
    for limits in (LIMITS, Limits(), Limits(least_s=700), Limits(setup_s=1, first_s=2)):
        limit = limits.of(phase, longest, data_s)
        assert limit >= limits.least_s
        assert longest is None or limit >= min(longest * 3, longest * limits.factor)
        assert phase not in ("data", "evaluate") or limit >= data_s + limits.least_s
