"""The ranks of a run on this machine. Torch-free: it starts them, passes signals on, and says why they ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from pipeline.dataset.errors import StoppedResumable, UsageError, WorkFailed
from pipeline.dataset.files import write_private
from pipeline.launch.environment import (
    ATTEMPT,
    MASTER_ADDRESS,
    PARENT_PID,
    RENDEZVOUS,
    STACKS_SIGNAL,
    STOP_SIGNALS,
    signals_blocked,
)
from pipeline.launch.lookout import Lookout
from pipeline.launch.preflight import Prepared
from pipeline.run.beat import Beat, last_word, left_without_a_word
from pipeline.run.hang import record_hang, verdict_on_a_kill
from pipeline.run.stacks import kernel_state
from pipeline.run.verdict import Verdict, judge_earlier_attempts, read_verdict
from pipeline.run.watchdog import Late

_GRACE_S: Final = 2.0  # for the other ranks to end by themselves after one has failed
_STOP_GRACE_S: Final = 10.0  # the same after one has stopped: all have saved by then, or one was starting still


def launch(prepared: Prepared, processes: int, from_scratch: bool, accept_changes: bool = False) -> None:
    """Owns the run directory, starts the ranks of one attempt and waits for them.

    Raises:
        UsageError: the run is in use, or the ranks refused to start.
        WorkFailed: a rank failed or was killed; the verdict says which and why.
        StoppedResumable: asked to stop, by a signal or by RUN/STOP, with everything saved.
    """
    run = prepared.run
    ranks: list[subprocess.Popen] = []
    asked: list[int] = []  # signals

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if not asked:  # a second signal changes nothing
            asked.append(signum)
            for process in ranks:
                process.send_signal(signum)

    for signum in STOP_SIGNALS:
        signal.signal(signum, pass_on)
    run.own()
    try:
        attempt = _begin(prepared)
        _start_all(ranks, asked, processes, attempt, from_scratch, accept_changes)
    except OSError as error:
        raise WorkFailed(f"run_dir: cannot write to {error.filename or run.path} ({error.strerror})") from None
    lookout = Lookout(attempt, prepared.config, processes)
    outcome = _wait(ranks, lookout, partial(_hang, attempt, lookout, ranks))
    for signum in STOP_SIGNALS:  # while this process ends, the interpreter would let a late one kill it
        signal.signal(signum, signal.SIG_IGN)
    ours, overrules = None, False
    if isinstance(outcome, Verdict):
        ours, overrules = outcome, True
    elif outcome is not None:
        code, beats = ranks[outcome].returncode, lookout.last_beats()
        ours, overrules = _verdict_on(attempt, outcome, code, beats), _is_wordless(code, beats.get(outcome))
    elif asked or any(process.returncode == StoppedResumable.exit_code for process in ranks):
        ours = _stopped(signal.Signals(asked[0]).name if asked else "a signal to one of its ranks")
    _conclude(attempt, _settled(attempt, ours, overrules))


def _begin(prepared: Prepared) -> Path:
    """A new attempt's folder, with its configuration. Raises OSError."""
    run = prepared.run
    run.sign(socket.gethostname())
    judge_earlier_attempts(map(run.attempt, run.attempts()))
    attempt = run.attempt(run.new_attempt())
    write_private(attempt / "config.yaml", prepared.config.to_yaml().encode())
    return attempt


def _start_all(
    ranks: list[subprocess.Popen],
    asked: list[int],
    processes: int,
    attempt: Path,
    from_scratch: bool,
    accept_changes: bool,
) -> None:
    """Fills `ranks`, unless meanwhile a signal comes into `asked`. Raises OSError."""
    command = [sys.executable, "-P", "-m", "pipeline.cli", "train", str(attempt / "config.yaml")]
    command += ["--from-scratch"] if from_scratch else []
    command += ["--accept-changes"] if accept_changes else []
    for rank in range(processes):
        if not asked:
            ranks.append(_start(command, rank, processes, attempt))
    if asked:  # while they were being started: the last of them has not been told
        for process in ranks:
            process.send_signal(asked[0])


def _start(command: list[str], rank: int, processes: int, attempt: Path) -> subprocess.Popen:
    """One rank. Rank 0 has our terminal; the others write to attempts/NNN/rank-N.log."""
    cores = len(os.sched_getaffinity(0))
    env = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        PARENT_PID: str(os.getpid()),
        ATTEMPT: str(int(attempt.name)),
        RENDEZVOUS: str((attempt / "rendezvous").absolute()),
    }
    env.pop(MASTER_ADDRESS, None)  # of a run on a cluster, in which somebody has started this one
    env.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    env.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with signals_blocked():  # one that comes before the rank can answer waits, and is answered then
        if rank == 0:
            return subprocess.Popen(command, env=env)
        with (attempt / f"rank-{rank}.log").open("ab") as log:
            return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def _wait(ranks: list[subprocess.Popen], lookout: Lookout, hang: Callable[[Late], Verdict]) -> int | Verdict | None:
    """Waits for all ranks; kills those that outlive one that failed or stopped, or that wait for one that hangs.

    Returns the rank that failed, or the verdict on a hang, if any.

    A rank that ended without a word takes the others down through their collectives, so it is named before them.
    """

    def failures() -> list[int]:
        ended_badly = [i for i, process in enumerate(ranks) if process.poll() not in (None, 0, 3)]
        return sorted(ended_badly, key=lambda i: not _is_wordless(ranks[i].returncode, lookout.last_beats().get(i)))

    stopped_at = 0.0
    while any(process.poll() is None for process in ranks):
        if failures():
            deadline = time.monotonic() + _GRACE_S
            while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
                time.sleep(0.05)
            failed = failures()[0]
            _kill(ranks)
            return failed
        if late := lookout.look():
            verdict = hang(late)
            _kill(ranks)
            return verdict
        if any(process.poll() == StoppedResumable.exit_code for process in ranks):
            stopped_at = stopped_at or time.monotonic()
            if time.monotonic() - stopped_at > _STOP_GRACE_S:
                _kill(ranks)
                return None
        time.sleep(0.05)
    return next(iter(failures()), None)


def _kill(ranks: list[subprocess.Popen]) -> None:
    for process in ranks:
        process.kill()
    for process in ranks:
        process.wait()


def _hang(attempt: Path, lookout: Lookout, ranks: list[subprocess.Popen], late: Late) -> Verdict:
    """What is recorded of a rank that hangs, and the verdict on it."""

    def ask_for_stacks() -> None:
        for process in ranks:
            process.send_signal(STACKS_SIGNAL)

    late = replace(late, host=late.host or socket.gethostname())
    return record_hang(attempt, late, lookout.beats, lambda beat: kernel_state(beat.pid), ask_for_stacks)


def _is_wordless(returncode: int, beat: Beat | None) -> bool:
    """Whether the rank could not say why it ended: what the others say are symptoms."""
    return returncode < 0 or left_without_a_word(returncode, beat)


def _verdict_on(attempt: Path, rank: int, returncode: int, beats: Mapping[int, Beat]) -> Verdict:
    """On a rank that could not speak for itself."""
    host = socket.gethostname()
    if returncode < 0:
        return verdict_on_a_kill(rank, host, signal.Signals(-returncode).name, beats)
    message = f"rank {rank} on {host} ended with exit code {returncode}; see {attempt}"
    return Verdict("exception", rank, host, *last_word(beats, rank), True, message)


def _stopped(by: str) -> Verdict:
    """If no rank got as far as knowing what it would be a verdict on: all others have written theirs."""
    message = f"stopped on {by} while it was starting, nothing is lost; the same command resumes"
    return Verdict("signal", None, None, "setup", None, True, message)


def _settled(attempt: Path, ours: Verdict | None, overrules: bool) -> Verdict | None:
    """The verdict that counts: a rank's, or ours where none spoke, or where they speak of symptoms (`overrules`)."""
    spoken = read_verdict(attempt)
    if spoken is not None and (spoken.cause == "finished" or spoken.is_of_a_stop):
        return spoken  # all was done and saved; what broke was the taking down
    if ours is None or (spoken is not None and not overrules):
        return spoken
    try:
        ours.write(attempt, overrule=spoken is not None)
    except OSError as error:  # a full disk: then it is said, and that is all
        return replace(ours, message=f"{ours.message}; its verdict cannot be written ({error.strerror})")
    return ours


def _conclude(attempt: Path, verdict: Verdict | None) -> None:
    """Turns the attempt's verdict into what the command ends with."""
    if verdict is None:
        raise WorkFailed(f"the ranks ended without a verdict; see {attempt}")
    if verdict.cause == "finished":
        return
    if verdict.cause == "usage":
        raise UsageError(verdict.message)
    if verdict.is_of_a_stop:
        raise StoppedResumable(verdict.message, verdict.cause, verdict.phase)
    again = "; the same command resumes" if verdict.resumable else ""
    raise WorkFailed(f"{verdict.message}{again}")
