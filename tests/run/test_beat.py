"""A rank's heart: what it says can be read at any moment, and it hurts nobody."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.beat import Beat, Heart, beat_file, last_word, left_without_a_word, read_beats

pytestmark = pytest.mark.fast

FINITE = st.floats(0, 4e9, allow_nan=False)
PHASES = st.sampled_from(["setup", "data", "step", "evaluate", "save"])
BEATS = st.builds(
    Beat,
    rank=st.integers(0, 99_999),
    host=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=64),
    pid=st.integers(1, 2**22),
    phase=PHASES,
    step=st.none() | st.integers(0, 2**40),
    entered=st.integers(0, 2**50),
    since=FINITE,
    beat=FINITE,
    waits=st.booleans(),
    ended=st.booleans(),
    longest=st.dictionaries(PHASES, FINITE),
)


@given(BEATS)
def test_a_line_says_what_it_was_made_of(beat: Beat) -> None:
    assert Beat.parse(beat.line()) == beat
    assert len(beat.line()) == 1024 and beat.line().endswith(b"\n")


@given(BEATS, BEATS, st.integers(0, 1024))
def test_halves_of_two_lines_are_neither_or_none(one: Beat, other: Beat, cut: int) -> None:
    assert Beat.parse(one.line()[:cut] + other.line()[cut:]) in (one, other, None)


@given(BEATS, st.integers(0, 10), st.integers(0, 9))
def test_the_same_rank_a_moment_later(beat: Beat, steps: int, cut: int) -> None:
    later = replace(beat, entered=beat.entered + steps, beat=beat.beat + 1)
    for at in range(cut, 1024, 10):
        assert Beat.parse(later.line()[:at] + beat.line()[at:]) in (beat, later, None)


@given(st.binary(max_size=300))
def test_what_is_no_line_is_none(data: bytes) -> None:
    assert Beat.parse(data) is None


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "{}", '{"check": 0}', '{"rank": 1, "check": 2}'])
def test_other_json_is_no_beat(text: str) -> None:
    assert Beat.parse(text.encode()) is None


def until(true, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_heart_tells_what_its_rank_does(tmp_path: Path) -> None:
    heart = Heart(3)
    heart.enter("save", 4)
    heart.start(tmp_path)
    first = read_beats(tmp_path)[3]
    assert (first.phase, first.step, first.entered, first.waits, first.ended) == ("save", 4, 1, False, False)
    heart.enter("data")
    until(lambda: read_beats(tmp_path)[3].phase == "data")
    assert last_word(read_beats(tmp_path), 3) == ("data", 4)
    with heart.waiting():
        until(lambda: read_beats(tmp_path)[3].waits)
        time.sleep(0.3)
    heart.enter("step", 5)
    until(lambda: read_beats(tmp_path)[3].phase == "step")
    beat = read_beats(tmp_path)[3]
    assert not beat.waits and beat.step == 5 and beat.entered == 3
    assert beat.longest.keys() == {"setup", "save", "data"}
    before = beat.beat
    until(lambda: read_beats(tmp_path)[3].beat > before)  # also where nothing happens
    heart.close()
    assert read_beats(tmp_path)[3].ended
    assert not list(tmp_path.glob("beats/*tmp*"))


def test_time_in_which_it_waits_for_others_is_not_its_own(tmp_path: Path) -> None:
    heart = Heart(0)
    heart.enter("data")
    with heart.waiting():
        time.sleep(0.5)
    heart.enter("step")
    heart.start(tmp_path)
    assert read_beats(tmp_path)[0].longest["data"] < 0.4
    heart.close()


def test_where_it_cannot_write_nothing_happens_until_it_can(tmp_path: Path) -> None:
    attempt = tmp_path / "attempt"
    attempt.write_text("no folder")
    heart = Heart(0)
    heart.start(attempt)
    heart.enter("data", 1)
    with heart.waiting():
        assert read_beats(attempt) == {}
    attempt.unlink()
    until(lambda: 0 in read_beats(attempt))
    heart.close()


def test_a_folder_with_other_things_in_it(tmp_path: Path) -> None:
    heart = Heart(1)
    heart.start(tmp_path)
    heart.close()
    beat_file(tmp_path, 0).write_bytes(b"torn")
    beat_file(tmp_path, 2).mkdir()
    assert list(read_beats(tmp_path)) == [1]
    assert last_word(read_beats(tmp_path), 0) == ("setup", None)


def test_many_ranks_are_read_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand, at 10 ms for each: after 5 s without a look the watchdog takes it for a standstill."""
    beat = Beat(0, "n", 1, "step", 3, 4, 0.0, 0.0, False, False, {})
    beat_file(tmp_path, 0).parent.mkdir()
    for rank in range(1000):
        beat_file(tmp_path, rank).write_bytes(replace(beat, rank=rank).line())
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: time.sleep(0.01) or read(path))
    began = time.monotonic()
    assert sorted(read_beats(tmp_path)) == list(range(1000))
    assert time.monotonic() - began < 4


def test_a_host_has_the_name_by_which_slurm_knows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    heart = Heart(0)
    heart.start(tmp_path)
    heart.close()
    assert read_beats(tmp_path)[0].host == "node7"


def test_who_left_without_a_word(tmp_path: Path) -> None:
    heart = Heart(0)
    heart.start(tmp_path)
    alive = read_beats(tmp_path)[0]
    heart.close()
    ended = read_beats(tmp_path)[0]
    assert [left_without_a_word(code, alive) for code in (1, 2, 3, 7)] == [True, False, False, True]
    assert [left_without_a_word(code, ended) for code in (1, 2, 3, 7)] == [False, False, False, True]
    assert not left_without_a_word(1, None), "it was refused before it had a heart"
