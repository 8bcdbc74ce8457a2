"""attempts/NNN/beats/: what each rank is doing, once a second, for whoever watches over the run. Torch-free.

    attempts/NNN/beats/rank-00000.json      one line, rewritten in place: what a rank does costs its folder no renames

A rank's `Heart` writes it, from a thread of its own, so that it beats on while the rank waits; it falls silent where
the process is stopped, or something holds the interpreter. Nothing here can hurt training: on a full disk there are no
beats, and that is all.
"""

import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

from pipeline.dataset.errors import StoppedResumable, UsageError, WorkFailed
from pipeline.dataset.files import read_regular
from pipeline.launch.environment import host_name
from pipeline.run.verdict import Phase

BEAT_S: Final = 1.0  # between two lines
_SOONEST_S: Final = 0.2  # the same where the phase changes
_WIDTH: Final = 1024  # bytes of a line, padded: one that is shorter leaves nothing of the one before
_LONGEST_HOST: Final = 255
_MANY, _AT_ONCE = 64, 32  # files of ranks that are read; of them at the same time
_TRIES, _TORN_S = 3, 0.01  # a line that is being rewritten is read again


@dataclass(frozen=True)
class Beat:
    """One line. Times are of the rank's own clock, which need not agree with the reader's."""

    rank: int
    host: str
    pid: int
    phase: Phase
    step: int | None  # optimizer steps done; None while that is not known yet
    entered: int  # how many phases it has entered so far: its progress
    since: float  # unix seconds at which it entered this one
    beat: float  # unix seconds of this line
    waits: bool  # for the other ranks
    ended: bool  # it says nothing more, and nobody needs to wonder why
    longest: dict[str, float]  # phase -> seconds, without those in which it waited for the others

    @classmethod
    def parse(cls, line: bytes) -> "Beat | None":
        """None where it is not a whole line."""
        try:
            body = json.loads(line)
            check = body.pop("check")
            beat = cls(**body)
        except (ValueError, TypeError, AttributeError, KeyError):
            return None
        sound = check == _check(body) and isinstance(beat.rank, int) and beat.phase in get_args(Phase)
        return beat if sound else None

    def line(self) -> bytes:
        """As it is written: JSON, with a check, since a reader may come upon halves of two lines."""
        body = asdict(self)
        return json.dumps(body | {"check": _check(body)}).encode().ljust(_WIDTH - 1) + b"\n"


def _check(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def beat_file(attempt: Path, rank: int) -> Path:
    return attempt / "beats" / f"rank-{rank:05d}.json"


def read_beats(attempt: Path) -> dict[int, Beat]:
    """rank -> its last line; without the ranks of which there is none, or none that can be read."""
    files = _files(attempt / "beats")
    if len(files) < _MANY:
        found = map(_read, files)
    else:  # one after the other, a thousand take a slow file system longer than a reader may be away
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(_read, files))
    return {beat.rank: beat for beat in found if beat}


def last_word(beats: Mapping[int, Beat], rank: int) -> tuple[Phase, int | None]:
    """What a rank was doing, and how many steps were done, as far as it has told."""
    beat = beats.get(rank)
    return (beat.phase, beat.step) if beat else ("setup", None)


def left_without_a_word(exit_code: int, beat: Beat | None) -> bool:
    """Whether a rank that ended with this code did so behind its own back: in a library, say, that calls exit().

    One that ends itself has said why before, in its verdict or on stderr, and its heart has ended.
    """
    if exit_code in (UsageError.exit_code, StoppedResumable.exit_code):  # while it was starting, perhaps
        return False
    return exit_code > WorkFailed.exit_code or (beat is not None and not beat.ended)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("rank-*.json"))
    except OSError:
        return []


def _read(path: Path) -> Beat | None:
    for attempt in range(_TRIES):
        with suppress(OSError):
            if beat := Beat.parse(read_regular(path)):
                return beat
        if attempt + 1 < _TRIES:
            time.sleep(_TORN_S)
    return None


class Heart:
    """A rank's. It hears what the rank does from its making on, and beats once it is told where."""

    def __init__(self, rank: int) -> None:
        self._rank, self._host = rank, host_name()[:_LONGEST_HOST]
        self._phase: Phase = "setup"
        self._step: int | None = None
        self._entered = 0
        self._since = time.monotonic()  # which a clock that is set, or a machine that sleeps, does not disturb
        self._waits_since: float | None = None
        self._waited_s = 0.0  # in this phase
        self._longest: dict[str, float] = {}
        self._ended = False
        self._file: int | None = None
        self._path: Path | None = None
        self._lock = threading.Lock()
        self._changed = False

    def start(self, attempt: Path) -> None:
        """Beats from now on, into the attempt's folder. Once it does, it goes on as it is."""
        if self._path is None:
            self._path = beat_file(attempt, self._rank)
            self._write()
            threading.Thread(target=self._live, name="vitstream-heart", daemon=True).start()

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """What the rank does from now on, with so many steps done, where that is not what it was before."""
        now = time.monotonic()
        with self._lock:
            took = now - self._since - self._waited_s
            self._longest[self._phase] = round(max(took, self._longest.get(self._phase, 0.0)), 3)
            self._phase, self._since, self._waited_s = phase, now, 0.0
            self._step = self._step if step is None else step
            self._entered += 1
        self._changed = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Meanwhile the rank waits for the others: it is not the one that holds them up."""
        self._waits_since = time.monotonic()
        self._changed = True
        try:
            yield
        finally:
            with self._lock:
                self._waited_s += time.monotonic() - self._waits_since
                self._waits_since = None
            self._changed = True

    def close(self) -> None:
        """The last beat, which says that it is the last."""
        with self._lock:
            self._ended = True
        if self._path is not None:
            self._write()

    def _live(self) -> None:
        last = time.monotonic()
        while not self._ended:
            time.sleep(_SOONEST_S)  # and looks: to be woken would cost the step that does it more than all else here
            if self._changed or time.monotonic() - last >= BEAT_S:
                self._changed, last = False, time.monotonic()  # what changes from now on is in the next line
                self._write()

    def _now(self) -> Beat:
        with self._lock:
            beat, lasts = time.time(), time.monotonic() - self._since
            return Beat(
                rank=self._rank,
                host=self._host,
                pid=os.getpid(),
                phase=self._phase,
                step=self._step,
                entered=self._entered,
                since=round(beat - lasts, 3),
                beat=round(beat, 3),
                waits=self._waits_since is not None,
                ended=self._ended,
                longest=dict(self._longest),
            )

    def _write(self) -> None:
        with suppress(OSError):  # a full disk: then nobody hears of us, and training goes on
            if self._file is None:
                assert self._path is not None
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            os.pwrite(self._file, self._now().line(), 0)
            # Off to the server now, without being waited for: NFS would keep a file that stays open for half a minute.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
