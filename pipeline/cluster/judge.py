"""Why an attempt ended, from all that is known: what a rank wrote, what SLURM said, what was asked of it. Pure.

A rank knows best, with three exceptions. One that was killed, or that a library ended, cannot speak, and the others,
whose collectives then break, speak of a symptom. srun ends those others by SIGTERM, which one that is still starting
takes for somebody's wish. And one that was asked to stop does not know by whom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.cluster.history import AttemptFacts
from pipeline.cluster.words import RankEnd, Words
from pipeline.dataset.errors import UsageError
from pipeline.run.beat import Beat, last_word
from pipeline.run.hang import verdict_on_a_kill
from pipeline.run.verdict import Cause, Verdict

Asking = Literal["time limit", "USR1", "TERM"]
_ENDS: dict[str, Cause] = {  # a job's states, of one whose supervisor could not say more
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
    "TIMEOUT": "time limit",
    "OUT_OF_MEMORY": "out of memory",
}
_BY_SLURM: dict[str, Cause] = {"": "cancelled", "PREEMPTION": "preempted", "TIME LIMIT": "time limit"}


@dataclass(frozen=True)
class Evidence:
    """What the supervisor has when the ranks have ended."""

    spoken: Verdict | None  # of a rank, or ours on a rank that hung
    words: Words  # of srun, and in the job's log
    beats: Mapping[int, Beat]  # the last of each rank
    asked: Asking | None  # what made us tell the ranks to save and end
    time_left_s: float | None  # of the job
    exit_code: int | None  # srun's
    said: str | None  # the last words of the rank that ended first, in its log
    preempted: bool  # what SLURM says of the job
    log: str  # where more is to be read


def judge(evidence: Evidence, lead_s: float) -> Verdict:
    """The verdict that counts. `lead_s`: before the job's end, when SLURM warns."""
    spoken, words = evidence.spoken, evidence.words
    if spoken is not None and _only_heard_srun(spoken, evidence):
        spoken = None
    if spoken is not None and spoken.cause in ("finished", "usage", "stop file", "hang"):
        return spoken
    if spoken is not None and spoken.is_of_a_stop:
        return _stopped(spoken, evidence, lead_s)
    if words.lost:
        return _lost(words.lost, evidence.beats)
    end = words.first_end
    if end is not None and end.was_killed:
        return _killed(end, evidence)
    if spoken is not None:
        mute = _first_mute(words, evidence.beats) if spoken.cause == "exception" else None
        return spoken if mute is None or mute.rank == spoken.rank else _wordless(mute, evidence)
    if evidence.asked:  # and nobody got as far as writing so
        message = "stopped while it was starting, nothing is lost; the next job goes on"
        return _stopped(Verdict("signal", None, None, "setup", None, True, message), evidence, lead_s)
    return _wordless(end, evidence)


def _only_heard_srun(spoken: Verdict, evidence: Evidence) -> bool:
    """Whether a rank that was starting was told to end because another had failed, and not because somebody asked."""
    if evidence.asked or spoken.cause != "signal" or spoken.phase != "setup":
        return False
    return bool(evidence.words.lost) or any(end.was_killed or end.broke for end in evidence.words.ends)


def _first_mute(words: Words, beats: Mapping[int, Beat]) -> RankEnd | None:
    """A rank that ended with an exit code, and without its last beat: something in its process ended it."""
    return next((e for e in words.ends if e.broke and e.rank in beats and not beats[e.rank].ended), None)


def _stopped(spoken: Verdict, evidence: Evidence, lead_s: float) -> Verdict:
    """By whom."""
    cause: Cause = spoken.cause
    told = [_BY_SLURM[why] for why in evidence.words.cancelled if why in _BY_SLURM]
    left = evidence.time_left_s
    if told:
        cause = told[0]
    elif evidence.preempted:
        cause = "preempted"
    elif evidence.asked == "time limit" or (evidence.asked == "USR1" and left is not None and left <= lead_s + 60):
        cause = "time limit"
    return spoken if cause == spoken.cause else replace(spoken, cause=cause, message=f"{cause}: {spoken.message}")


def judge_silent(
    facts: AttemptFacts | None, state: str | None, down: Sequence[str], beats: Mapping[int, Beat]
) -> Verdict:
    """On an attempt whose job died without a word.

    Args:
        state: what SLURM says of the job, if it still knows it.
        down: those of its hosts that have failed.
    """
    if facts and state == "NODE_FAIL":
        return _lost(down or facts.hosts[:1], beats)  # silent, since the supervisor's own host was lost
    step = max((beat.step for beat in beats.values() if beat.step is not None), default=None)
    said = f"; job {facts.job} is {state}" if facts and state else ""
    message = f"ended without a word: killed, or lost with its machine{said}"
    return Verdict(_ENDS.get(state or "", "killed"), None, None, "step", step, True, message)


def _lost(lost: Sequence[str], beats: Mapping[int, Beat]) -> Verdict:
    hosts = sorted(set(lost))
    named = ",".join(hosts)
    beat = next((beat for beat in beats.values() if beat.host in hosts), None)
    rank, phase, step = (beat.rank, beat.phase, beat.step) if beat else (None, "step", None)
    message = f"{named} was lost: the node does not answer, or SLURM says that it has failed"
    return Verdict("node lost", rank, named, phase, step, True, message)


def _killed(end: RankEnd, evidence: Evidence) -> Verdict:
    verdict = verdict_on_a_kill(end.rank, end.host, end.signal or end.said, evidence.beats)
    if not evidence.words.out_of_memory:
        return verdict
    message = f"rank {end.rank} on {end.host} was killed, since the memory of its job on that node ran out"
    return replace(verdict, cause="out of memory", message=message)


def _wordless(end: RankEnd | None, evidence: Evidence) -> Verdict:
    """Nobody wrote why."""
    if end is not None:
        phase, step = last_word(evidence.beats, end.rank)
        said = evidence.said if end is evidence.words.first_end else None
        if end.exit_code == UsageError.exit_code and said:
            return Verdict("usage", end.rank, end.host, phase, step, False, said)
        said = said or f"{end.said[0].lower()}{end.said[1:]}; see {evidence.log}"
        message = said if said.startswith("rank ") else f"rank {end.rank} on {end.host}: {said}"
        cause: Cause = "out of memory" if evidence.words.out_of_memory else "exception"
        return Verdict(cause, end.rank, end.host, phase, step, True, message)
    said = evidence.words.errors[0] if evidence.words.errors else f"srun ended with exit code {evidence.exit_code}"
    return Verdict("exception", None, None, "setup", None, True, f"srun: {said}; see {evidence.log}")
