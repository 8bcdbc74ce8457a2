"""What is recorded of a rank that hangs, before it is killed, and the verdict on it. Torch-free.

The same on one machine and on a cluster: how a rank's machine is reached is the caller's.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from pipeline.run.beat import Beat, last_word
from pipeline.run.stacks import is_in_a_collective, kernel_file
from pipeline.run.verdict import Verdict
from pipeline.run.watchdog import Late

_DUMP_S: Final = 1.0  # for all ranks to write their stacks


def record_hang(
    attempt: Path,
    late: Late,
    beats: Mapping[int, Beat],
    look: Callable[[Beat], str],
    ask_for_stacks: Callable[[], None],
) -> Verdict:
    """Records where the ranks stand, and returns the verdict, not written yet. The ranks are as they were.

    Args:
        look: what the kernel says of a rank's process, asked on its machine, in words; it may raise OSError.
        ask_for_stacks: sends SIGUSR2 to all ranks.
    """
    recorded = late.rank in beats and _record_kernel_state(attempt, beats[late.rank], look)  # first: as it stood
    first = late
    ask_for_stacks()
    time.sleep(_DUMP_S)
    late = _rather(attempt, late, beats)
    where = f"its kernel state is in {kernel_file(attempt, late.rank)}, " if recorded and late is first else ""
    message = f"{late}; {where}all ranks' stacks in {attempt / 'stacks'}"
    return Verdict("hang", late.rank, late.host, late.phase, late.step, True, message)


def _rather(attempt: Path, late: Late, beats: Mapping[int, Beat]) -> Late:
    """Who it is after all: of ranks that are all in the same step, one that is in no collective, as the others are.

    From outside, a rank that computes for ever looks like those that wait for it; only its stack says so.
    """
    if late.silent or not is_in_a_collective(attempt, late.rank):
        return late
    alike = [beat for beat in beats.values() if (beat.phase, beat.step) == (late.phase, late.step) and not beat.ended]
    busy = [beat for beat in alike if is_in_a_collective(attempt, beat.rank) is False]
    if not busy:
        return late
    beat = min(busy, key=lambda each: each.rank)
    return replace(late, rank=beat.rank, host=beat.host, pid=beat.pid)


def verdict_on_a_kill(rank: int, host: str, signal_name: str, beats: Mapping[int, Beat]) -> Verdict:
    """On a rank that a signal ended, which could not speak for itself: by its last beat."""
    phase, step = last_word(beats, rank)
    message = f"rank {rank} on {host} was killed by {signal_name}"
    message += " (the kernel does that when memory runs out: see dmesg)" if signal_name == "SIGKILL" else ""
    return Verdict("killed", rank, host, phase, step, True, message)


def _record_kernel_state(attempt: Path, beat: Beat, look: Callable[[Beat], str]) -> bool:
    path = kernel_file(attempt, beat.rank)
    with suppress(OSError):  # a full disk, or a machine that does not answer
        said = look(beat)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(said)
        return True
    return False
