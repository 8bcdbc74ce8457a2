"""One rank of a run, from its first instruction to its verdict. Started by our launcher, torchrun or srun."""

import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline.dataset.errors import StoppedResumable, UsageError, WorkFailed
from pipeline.dataset.processes import die_with
from pipeline.launch.environment import RankEnvironment
from pipeline.launch.local import ATTEMPT, PARENT_PID, RENDEZVOUS, judge_earlier_attempts
from pipeline.launch.preflight import Prepared, prepare
from pipeline.run.verdict import Cause


class StopRequest:
    """Set by SIGTERM, SIGINT or SIGUSR1; read at every step. A second signal changes nothing."""

    def __init__(self) -> None:
        self.signal: str | None = None
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(signum).name


def run_rank(environment: RankEnvironment, run_yaml: Path, overrides: list[str], from_scratch: bool) -> None:
    """Joins the run and trains to its end.

    Raises:
        UsageError, WorkFailed, StoppedResumable: on rank 0, after the verdict is written.
    """
    if PARENT_PID in os.environ:
        die_with(int(os.environ[PARENT_PID]))
    stop = StopRequest()
    try:
        prepared = prepare(run_yaml, overrides, environment.world_size)
        attempt = _begin_attempt(prepared) if environment.rank == 0 else None
    except UsageError as error:
        if environment.rank == 0:
            raise
        raise UsageError(f"rank {environment.rank} on {socket.gethostname()}: {error}") from None

    from pipeline.train import Trainer  # torch and DeepSpeed: seconds, spent only once all checks have passed

    trainer = Trainer(prepared, environment, os.environ.get(RENDEZVOUS), attempt, stop, from_scratch)
    try:
        trainer.train()
        trainer.verdict("finished", "finished", resumable=False)
    except StoppedResumable as stopped:
        trainer.verdict("signal", str(stopped), resumable=True)
        _leave(stopped, environment, traced=False)
    except UsageError as error:
        trainer.verdict("usage", str(error), resumable=False)
        _leave(error, environment, traced=False)
    except WorkFailed as error:
        trainer.verdict("data", str(error), resumable=True)
        _leave(error, environment, traced=False)
    except BaseException as error:
        cause: Cause = "out of memory" if _is_out_of_memory(error) else "exception"
        first_line = (str(error).splitlines() or [""])[0]
        trainer.verdict(cause, f"{type(error).__name__}: {first_line}", resumable=True)
        _leave(error, environment, traced=True)
    trainer.close()


def _begin_attempt(prepared: Prepared) -> int:
    """The attempt's number: from our launcher, which owns the run, else this process takes it."""
    if ATTEMPT in os.environ:
        prepared.run.own_as_rank_0()
        return int(os.environ[ATTEMPT])
    prepared.run.own()
    prepared.run.own_as_rank_0()
    prepared.run.sign(socket.gethostname())
    judge_earlier_attempts(prepared)
    return prepared.run.new_attempt()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _leave(error: BaseException, environment: RankEnvironment, traced: bool) -> NoReturn:
    """Ends this rank at once. A failed collective, or a loader's queue, would make an orderly exit wait for ever."""
    who = "" if environment.rank == 0 else f"rank {environment.rank} on {socket.gethostname()}: "
    launched = PARENT_PID in os.environ  # then the launcher says it, once
    if traced:
        traceback.print_exception(error)
    if not launched or environment.rank != 0:
        print(f"vitstream: {who}{error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(getattr(error, "exit_code", 1))
