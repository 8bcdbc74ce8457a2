"""What a run is doing, and why it waits: told from its folder, and from SLURM where that is here. Torch-free.

Works on any machine that sees the folder, for runs of one machine, too. Nothing is written.
"""

import json
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from pipeline.checkpoint.manifest import MANIFEST_NAME, published, step_of
from pipeline.cluster import chain, queue
from pipeline.cluster.blame import BlameLedger
from pipeline.cluster.job import submissions
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import read_regular
from pipeline.run.beat import Beat, read_beats
from pipeline.run.directory import NO_LOCKS, RunDirectory
from pipeline.run.measured import measured
from pipeline.run.slow_host import SlowHost
from pipeline.run.verdict import Verdict, read_verdict

State = Literal["running", "queued", "stopped", "finished", "failed", "never started"]
_EXIT_CODES: Final = {"running": 0, "queued": 0, "finished": 0, "failed": 1, "never started": 1, "stopped": 3}
_NEVER: Final = ("DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin", "BadConstraints")
_SILENT_S, _SLOW_S, _SLOW_FACTOR = 10.0, 60.0, 10.0
_ALIVE_S: Final = 30.0  # since a beat: somebody trains, whatever locks and queues say
_BEHIND: Final = 1.5  # times the median of all ranks
_GOES_ON: Final = ("signal", "time limit", "preempted")  # the chain's next job takes over
_OF: Final = re.compile(rb"\bstep [\d,]+/([\d,]+), ")
_TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class JobShown:
    id: int
    state: str
    reason: str  # why it waits
    start: float | None  # unix seconds: SLURM's estimate, of one that waits
    left_s: int | None
    nodes: str


@dataclass(frozen=True)
class RankShown:
    """A rank that is worth a look."""

    rank: int
    host: str
    phase: str
    for_s: float  # in its phase
    silent_s: float  # since its last beat
    why: str


@dataclass(frozen=True)
class Saved:
    step: int
    age_s: float


@dataclass(frozen=True)
class Status:
    run: str
    state: State
    why: str
    jobs: tuple[JobShown, ...]
    attempt: int | None
    step: int | None
    total_steps: int | None
    images_per_s: float | None
    eta_s: float | None
    data_wait: float | None  # share of the time
    slow_host: SlowHost | None  # for which all others wait
    checkpoint: Saved | None
    hosts: tuple[str, ...]
    ranks: tuple[RankShown, ...]
    verdict: Verdict | None  # the last one
    verdict_of: int | None  # attempt
    blamed: dict[str, int]  # host -> how often
    excluded: tuple[str, ...]  # hosts that the next job avoids
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """For cron: 0 finished or going on, 1 needs a human, 3 stopped, and nothing is queued."""
        if self.state == "queued" and self.jobs and self.jobs[0].reason in _NEVER:  # the others wait for it
            return 1
        return _EXIT_CODES[self.state]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"exit_code": self.exit_code}


def status_of(run: RunDirectory) -> Status:
    """Raises UsageError where the folder cannot be looked into."""
    jobs, notes = _jobs(run)
    attempts = run.attempts()
    newest = run.attempt(attempts[-1]) if attempts else None
    beats = read_beats(newest) if newest else {}
    verdict_of, verdict = _last_verdict(run, attempts)
    state, why = _state(run, jobs, beats, verdict if verdict_of == (attempts or [None])[-1] else None, not notes)
    speed = measured(run)
    step = max([b.step for b in beats.values() if b.step is not None] + [speed.step or 0], default=None)
    total = _total_steps(run, attempts)
    left = None if total is None or not speed.step_s else max(0, total - (step or 0)) * speed.step_s
    ledger = BlameLedger.of(run.path)
    blamed = Counter(host for entry in ledger.read() for host in entry.host.split(","))
    return Status(
        run=str(run.path),
        state=state,
        why=why,
        jobs=tuple(_shown(job) for job in jobs if job.state.kind != "ended"),
        attempt=attempts[-1] if attempts else None,
        step=step or None,
        total_steps=total,
        images_per_s=speed.images_per_s,
        eta_s=left if state in ("running", "queued", "stopped") else None,
        data_wait=speed.data_wait,
        slow_host=speed.slow_host if state == "running" else None,
        checkpoint=_saved(run),
        hosts=_hosts(newest, beats),
        ranks=tuple(_worth_a_look(beats, time.time())) if state == "running" else (),
        verdict=verdict,
        verdict_of=verdict_of,
        blamed=dict(blamed),
        excluded=_excluded(jobs, ledger),
        notes=tuple(notes),
    )


def _jobs(run: RunDirectory) -> tuple[list[queue.Job], list[str]]:
    """The run's jobs that SLURM knows; and a note where it was not to be asked."""
    facts = map(_attempt_facts, map(run.attempt, run.attempts()[-1:]))
    by_hand = [each["job"] for each in facts if isinstance(each.get("job"), int)]
    if not submissions(run.path) and not by_hand:
        return [], []
    try:
        found = {job.id: job for job in chain.jobs(run.path)}
        others = [job for job in by_hand if job not in found]
        return [*found.values(), *queue.jobs_with(others)], []
    except queue.NoAnswer as error:
        return [], [f"{error}: whether jobs of this run wait, or run, is told from its folder"]


def _state(
    run: RunDirectory, jobs: list[queue.Job], beats: dict[int, Beat], verdict: Verdict | None, slurm_answered: bool
) -> tuple[State, str]:
    """`verdict`: of the newest attempt."""
    running, waiting = [job for job in jobs if job.is_running], [job for job in jobs if job.is_waiting]
    owner = run.owner()
    if verdict is not None and verdict.cause == "finished":
        return "finished", ""
    if running:
        return "running", f"{running[0]} on {running[0].nodes or 'its nodes'}"
    if owner is not None and owner != NO_LOCKS:
        return "running", owner
    if verdict is None and any(time.time() - beat.beat < _ALIVE_S and not beat.ended for beat in beats.values()):
        return "running", "its ranks beat"
    if waiting:
        return "queued", ""
    queued_once = [job for submission in submissions(run.path)[-1:] for job in submission.jobs()]
    if not slurm_answered and queued_once and (not run.attempts() or (verdict and verdict.cause in _GOES_ON)):
        return "queued", "its jobs were, and nothing says that they are no more"
    gone = " and no job of its chain is left" if queued_once and slurm_answered else ""
    if not run.attempts():
        return "never started", f"it was submitted{gone}" if gone else ""
    if verdict is None:
        return "failed", f"it ended without a word{gone}"
    if verdict.is_of_a_stop:
        return "stopped", f"the same command goes on{gone and ';' + gone.removeprefix(' and')}"
    return "failed", f"{verdict.cause}{gone and ',' + gone}"


def _shown(job: queue.Job) -> JobShown:
    start = job.start if job.is_waiting else None
    return JobShown(job.id, str(job.state), job.reason, start, job.left_s if job.is_running else None, job.nodes)


def _last_verdict(run: RunDirectory, attempts: list[int]) -> tuple[int | None, Verdict | None]:
    for attempt in reversed(attempts):
        if verdict := read_verdict(run.attempt(attempt)):
            return attempt, verdict
    return None, None


def _attempt_facts(attempt: Path) -> dict[str, Any]:
    """attempt.json of the cluster's supervisor; empty where there is none."""
    with suppress(OSError, ValueError):
        facts = json.loads(read_regular(attempt / "attempt.json"))
        if isinstance(facts, dict):
            return facts
    return {}


def _hosts(attempt: Path | None, beats: dict[int, Beat]) -> tuple[str, ...]:
    told = _attempt_facts(attempt).get("hosts") if attempt else None
    if isinstance(told, list):
        return tuple(map(str, told))
    return tuple(dict.fromkeys(beats[rank].host for rank in sorted(beats)))


def _saved(run: RunDirectory) -> Saved | None:
    for path in reversed(published(run.checkpoints)):
        with suppress(OSError):  # pruned under our eyes
            return Saved(step_of(path), max(0.0, time.time() - (path / MANIFEST_NAME).stat().st_mtime))
    return None


def _total_steps(run: RunDirectory, attempts: list[int]) -> int | None:
    """As the configuration says, or rank 0 has said: the data need not be seen from here."""
    configs = [run.attempt(attempt) / "config.yaml" for attempt in attempts[-1:]]
    configs += [submission.config for submission in submissions(run.path)[-1:]] + [run.config]
    for path in configs:
        with suppress(UsageError):
            if (steps := load_config(path).steps) is not None:
                return steps
            break
    for attempt in reversed(attempts[-3:]):
        with suppress(OSError), (run.attempt(attempt) / "rank-0.log").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            if found := _OF.findall(file.read()):
                return int(found[-1].replace(b",", b""))
    return None


def _worth_a_look(beats: dict[int, Beat], now: float) -> list[RankShown]:
    """Those that are silent, or long in a phase, and the one that is far slower than the others."""
    found = {}
    for beat in beats.values():
        for_s, silent_s = max(0.0, now - beat.since), max(0.0, now - beat.beat)
        longest = max((each.longest.get(beat.phase, 0.0) for each in beats.values()), default=0.0)
        why = ""
        if beat.ended:
            continue
        if silent_s > _SILENT_S:
            why = "no sign of life"
        elif not beat.waits and for_s > max(_SLOW_S, _SLOW_FACTOR * longest):
            why = "far longer than ever before"
        if why:
            found[beat.rank] = RankShown(beat.rank, beat.host, beat.phase, for_s, silent_s, why)
    steps = {beat.rank: beat.longest["step"] for beat in beats.values() if "step" in beat.longest}
    if not found and len(steps) > 2:
        slowest, usual = max(steps, key=lambda rank: steps[rank]), median(steps.values())
        if steps[slowest] > _BEHIND * usual:
            beat = beats[slowest]
            why = f"slowest: a step took it up to {steps[slowest]:.2f} s, others {usual:.2f} s"
            found[slowest] = RankShown(slowest, beat.host, beat.phase, max(0.0, now - beat.since), 0.0, why)
    return [found[rank] for rank in sorted(found)]


def _excluded(jobs: list[queue.Job], ledger: BlameLedger) -> tuple[str, ...]:
    """Hosts that the next job avoids, as SLURM has been told; else those that it will be told."""
    for job in jobs:
        if job.is_waiting:
            with suppress(queue.NoAnswer):
                if found := queue.details(job.id):
                    return tuple(queue.hostnames(found.excluded))
    return tuple(ledger.hosts_to_exclude())
