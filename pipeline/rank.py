"""One rank of a run, from its first instruction to its verdict. Started by our launcher, torchrun or srun."""

import errno
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pipeline.data import nursery
from pipeline.dataset.errors import StoppedResumable, UsageError, WorkFailed
from pipeline.dataset.names import one_line
from pipeline.dataset.processes import die_with
from pipeline.launch.environment import ATTEMPT, PARENT_PID, RENDEZVOUS, RankEnvironment, attempt_told, host_name
from pipeline.launch.preflight import Prepared, prepare
from pipeline.run.beat import Heart
from pipeline.run.stacks import dump_on_request
from pipeline.run.stop_request import Asked, StopRequest
from pipeline.run.verdict import Phase, Verdict, judge_earlier_attempts, read_verdict

if TYPE_CHECKING:
    from pipeline.train import Trainer

_NO_MEMORY: Final = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "bad_alloc")
_NOT_WRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_rank(
    environment: RankEnvironment, run_yaml: Path, overrides: list[str], from_scratch: bool, accept_changes: bool
) -> None:
    """Joins the run and trains to its end. A rank that fails after joining ends its process here, with its verdict.

    Raises:
        UsageError, WorkFailed: before it joined.
    """
    if PARENT_PID in os.environ:
        die_with(int(os.environ[PARENT_PID]))
    heart = Heart(environment.rank)
    told = attempt_told()
    dump_on_request(told, environment.rank)
    if told is not None:
        heart.start(told)
    stop = StopRequest(heart)
    try:
        prepared = prepare(run_yaml, overrides, environment.world_size, from_scratch, accept_changes)
        attempt = _begin_attempt(prepared, environment)
    except (UsageError, WorkFailed) as error:
        if environment.rank == 0:
            raise
        raise type(error)(f"rank {environment.rank} on {host_name()}: {error}") from None

    stop.while_starting(partial(_leave_while_starting, prepared, environment, attempt))
    if environment.rank == 0:
        stop.watch(prepared.run.stop_file)
    trainer = None
    try:
        if prepared.config.loader.workers:
            nursery.start()
        from pipeline.train import Trainer  # torch and DeepSpeed: seconds, spent only once all checks have passed

        trainer = Trainer(prepared, environment, os.environ.get(RENDEZVOUS), attempt, stop, from_scratch)
        if attempt is None:  # now it is known on what to write a verdict
            stop.while_starting(partial(_leave_while_starting, prepared, environment, trainer.attempt))
            dump_on_request(prepared.run.attempt(trainer.attempt), environment.rank)
            heart.start(prepared.run.attempt(trainer.attempt))
        trainer.train()
        stop.enter("step")  # also where there was none left to do: it comes to its end by itself
        with heart.waiting():
            trainer.world.barrier()  # finished is what all have done
        if environment.rank == 0:
            _write_verdict(prepared, trainer.attempt, Verdict.of_finished(trainer.progress.step, trainer.stalls))
            prepared.run.stop_file.obeyed(step=None)
        heart.close()
        trainer.close()
    except BaseException as error:
        if trainer is not None and attempt is None:
            attempt = trainer.attempt
        stop.leave_if_starting()  # a collective breaks when the other ranks are leaving
        error = _stopped_by_another(error, prepared, attempt) or _of_a_full_disk(error, environment) or error
        written = _write_verdict(prepared, attempt, _verdict_of(error, environment, stop.phase, trainer))
        if environment.rank == 0 and trainer is not None and isinstance(error, StoppedResumable):
            prepared.run.stop_file.obeyed(trainer.progress.step)
        log = prepared.run.attempt(attempt) / f"rank-{environment.rank}.log" if attempt is not None else None
        heart.close()
        _leave(error, environment, log, written)


def _begin_attempt(prepared: Prepared, environment: RankEnvironment) -> int | None:
    """The attempt's number: from our launcher, which owns the run; else rank 0 takes the run, and tells the others."""
    run = prepared.run
    if ATTEMPT in os.environ:
        if environment.rank == 0:
            run.own_as_rank_0()
        return int(os.environ[ATTEMPT])
    if environment.rank != 0:
        return None
    run.own()
    run.own_as_rank_0()
    run.sign(host_name())
    judge_earlier_attempts(map(run.attempt, run.attempts()))
    return run.new_attempt()


def _leave_while_starting(prepared: Prepared, environment: RankEnvironment, attempt: int | None, asked: Asked) -> None:
    """Ends this rank at once, in whatever thread: there is nothing to save yet."""
    stopped = StoppedResumable(
        f"stopped {asked.how} while it was starting, nothing is lost; the same command resumes", asked.cause, "setup"
    )
    written = _write_verdict(prepared, attempt, _verdict_of(stopped, environment, "setup", None))
    if environment.rank == 0:
        prepared.run.stop_file.obeyed(-1)
    _leave(stopped, environment, None, written)


def _stopped_by_another(error: BaseException, prepared: Prepared, attempt: int | None) -> StoppedResumable | None:
    """The stop that this error follows from: another rank was asked to, while it was starting, and has gone."""
    if attempt is None or isinstance(error, StoppedResumable | UsageError | WorkFailed):
        return None
    verdict = read_verdict(prepared.run.attempt(attempt))
    if verdict is None or not verdict.is_of_a_stop:
        return None
    return StoppedResumable(verdict.message, verdict.cause, verdict.phase)


def _of_a_full_disk(error: BaseException, environment: RankEnvironment) -> WorkFailed | None:
    """The same as one line: nobody needs to know where in the program a disk was full."""
    if not isinstance(error, OSError) or error.errno not in _NOT_WRITABLE:
        return None
    where = f" to {error.filename}" if error.filename else ""  # the run's folder, or shared memory
    return WorkFailed(f"rank {environment.rank} on {host_name()}: cannot write{where} ({error.strerror})")


def _verdict_of(error: BaseException, environment: RankEnvironment, phase: Phase, trainer: "Trainer | None") -> Verdict:
    step = trainer.progress.step if trainer else None
    where = (environment.rank, host_name(), phase, step)
    stalls = trainer.stalls if trainer else {}
    match error:
        case StoppedResumable():
            return Verdict(error.cause, None, None, error.phase, step, True, str(error), **stalls)
        case UsageError():
            return Verdict("usage", None, None, phase, step, False, str(error))
        case WorkFailed():
            return Verdict(error.cause, *where, error.resumable, str(error), **stalls)
    first_line = (str(error).splitlines() or [""])[0]
    message = f"rank {environment.rank} on {where[1]}: {type(error).__name__}: {first_line}"
    return Verdict("out of memory" if lacks_memory(error) else "exception", *where, True, message)


def lacks_memory(error: BaseException) -> bool:
    """Whether it says that there is none: torch and the libraries below it do that in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    if isinstance(error, ImportError):  # there was none for a library
        return "failed to map segment" in said and "not permitted" not in said
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)


def _write_verdict(prepared: Prepared, attempt: int | None, verdict: Verdict) -> bool:
    """Whether there is one now. One that cannot be written must not keep this rank from ending."""
    if attempt is None:  # not told yet which it is
        return False
    try:
        verdict.write(prepared.run.attempt(attempt))
    except OSError as error:
        print(f"vitstream: cannot write the verdict: {error}", file=sys.stderr)
        return False
    return True


def _keep_trace(error: BaseException, log: Path | None) -> None:
    """The traceback, for whoever looks into it: in the rank's log, or on stderr where there is none."""
    try:
        if log is None:
            raise FileNotFoundError
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)


def _leave(error: BaseException, environment: RankEnvironment, log: Path | None, written: bool) -> NoReturn:
    """Ends this rank at once. A failed collective, or a loader's queue, would make an orderly exit wait for ever."""
    if not isinstance(error, StoppedResumable | UsageError | WorkFailed):
        _keep_trace(error, log)
    if environment.rank != 0 or PARENT_PID not in os.environ or not written:  # else our launcher says it, once
        who = "" if environment.rank == 0 else f"rank {environment.rank} on {host_name()}: "
        print(f"vitstream: {one_line(f'{who}{error}')}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(getattr(error, "exit_code", 1))
