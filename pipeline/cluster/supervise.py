"""The story of a job's batch shell: own the run, start the ranks, watch them, judge, and decide what comes next.

    python -P -m pipeline.cluster.supervise JOB.json | RUN.yaml

Torch-free. slurm/train.sbatch ends in it. Exit codes: 0 finished, 1 failed, 2 wrong input, 3 stopped but resumable.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from pipeline.cluster import chain, queue
from pipeline.cluster.allocation import Allocation, hosts_down, job_by_hand, state_of
from pipeline.cluster.blame import BlameLedger
from pipeline.cluster.ending import Ending
from pipeline.cluster.history import AttemptFacts, has_begun_anew, history, newest_published
from pipeline.cluster.job import JobFile, Submission, read_job
from pipeline.cluster.judge import judge_silent
from pipeline.cluster.policy import Ended, Next, Policy
from pipeline.cluster.srun import Srun, command, environment, silent_hosts
from pipeline.cluster.watch import LogTail, Watch
from pipeline.cluster.words import heard
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import write_json, write_private
from pipeline.dataset.names import one_line
from pipeline.launch.lookout import Lookout
from pipeline.launch.preflight import Prepared, prepare
from pipeline.run.beat import read_beats
from pipeline.run.directory import RunDirectory
from pipeline.run.verdict import Verdict, read_verdict

_DETECTION_S: Final = 900.0  # that SLURM may take to find out that a node is lost: SlurmdTimeout, 300 s by default
_DETECTION_LOOK_S: Final = 2.0
_BACK_S: Final = 60.0  # between two looks whether they have been switched on again
_CONTROLLER_S: Final = 1800.0  # that it may be silent: it is being updated, or moves to another machine
_OWNER_PATIENCE_S: Final = 120.0  # a network file system may take so long to see that a lost node holds no lock


class Supervisor:
    """One job of a run."""

    def __init__(self, job: JobFile, submission: Submission | None, here: Allocation) -> None:
        """`submission`: what the job was submitted with; None for a job by hand."""
        self.job, self.submission, self.here = job, submission, here
        self.run = RunDirectory(Path(job.run_dir))
        self.blame = BlameLedger.of(self.run.path)
        self.policy = Policy(job.attempts, job.without_progress)
        self.ending = Ending(here, job.lead_s)
        self.log = LogTail()
        self.owns = False  # the run
        self.restarts = 0

    def work(self) -> int:
        """Attempts, as long as they make sense here. Returns the exit code. Raises UsageError, WorkFailed, OSError."""
        self.ending.listen()
        self.run.create()
        self.run.own(_OWNER_PATIENCE_S)
        self.owns = True
        self.run.sign(self.here.hosts[0])
        self._judge_earlier()
        while True:
            shunned = sorted(set(self.blame.hosts_to_exclude()) & set(self.here.hosts))
            following = self.policy.after(self._history(), self.here.job, shunned)
            if following.action != "attempt":
                return self.end(following)
            self._wait_for_slurm_to_answer()
            if self.ending.asked:
                return self.end(self._asked_between_attempts())
            self._attempt()

    def _asked_between_attempts(self) -> Next:
        """No ranks are there, whose verdict would say by whom."""
        if "" in heard(self.log.lines()).cancelled:  # by somebody's scancel
            return Next("end the chain", 3, "cancelled before an attempt began")
        return Next("hand over", 3, "asked to stop before an attempt began")

    def end(self, following: Next) -> int:
        """Leaves the chain as it is to go on, or ends it. Returns the exit code."""
        self.say(following.why)
        self._tell(following)
        if self.submission is None:  # nor may one by hand end the chain of somebody who has the run
            return following.exit_code
        try:
            if following.action == "end the chain":
                if gone := chain.cancel_successors(self.run.path, self.here.job, started=self.owns):
                    self.say(f"cancelled {len(gone)} jobs of the chain that are not needed")
            elif hosts := self.blame.hosts_to_exclude():
                waiting = [job.id for job in chain.jobs(self.run.path) if job.is_waiting]
                left = chain.hosts_left(waiting[0], hosts) if waiting else None
                if left is not None and left < self.job.nodes:  # it would wait for ever
                    return self.end(Next("end the chain", 1, self._too_few(left, hosts)))
                chain.exclude(waiting, hosts)
                self.say(f"the next jobs do without {', '.join(hosts)}: see {self.blame.path}")
        except queue.NoAnswer as error:
            self.say(f"{error}: the chain stays as it is")
        return following.exit_code

    def _too_few(self, left: int, hosts: Sequence[str]) -> str:
        have = "1 host is" if left == 1 else f"{left} hosts are"
        return (
            f"{', '.join(hosts)} failed twice, without which {have} left in the partition for a run of "
            f"{self.job.nodes}: mend, remove the host's lines from {self.blame.path}, and submit again"
        )

    # -- one attempt -------------------------------------------------------------------------------------------

    def _attempt(self) -> None:
        job, here = self.job, self.here
        number, published = self.run.new_attempt(), newest_published(self.run)
        attempt = self.run.attempt(number)
        facts = AttemptFacts(
            here.job, self.restarts, here.hosts, job.tasks_per_node, time.time(), published, self._submission
        )
        from_scratch = job.from_scratch and not has_begun_anew(self.run, self._history())
        facts.write(attempt)
        self.restarts += 1
        self.say(f"attempt {number}: {len(here.hosts)} x {job.tasks_per_node} ranks on {', '.join(here.hosts)}")
        try:
            prepared = prepare(self._config(), [], job.ranks, from_scratch, job.accept_changes)
        except (UsageError, WorkFailed) as error:
            self._conclude(attempt, _refused(error, here.hosts[0]))
            return
        verdict = self._run_ranks(attempt, prepared, from_scratch)
        self._conclude(attempt, verdict)
        if verdict.cause == "node lost" and verdict.host:
            self._wait_for_slurm_to_know(verdict.host.split(","))

    def _run_ranks(self, attempt: Path, prepared: Prepared, from_scratch: bool) -> Verdict:
        config, job = prepared.config, self.job
        write_private(attempt / "config.yaml", config.to_yaml().encode())
        extra = ["--accept-changes"] if job.accept_changes else []
        extra += ["--from-scratch"] if from_scratch else []
        watch = Watch(job, self.here, self.ending, attempt, Lookout(attempt, config, job.ranks))
        return watch.over(Srun(command(job, attempt, extra), environment(job, attempt, self.here.master)))

    def _conclude(self, attempt: Path, verdict: Verdict) -> None:
        """Writes the verdict, and lays the blame."""
        spoken = read_verdict(attempt)
        try:
            if verdict != spoken:
                verdict.write(attempt, overrule=spoken is not None)
            if facts := AttemptFacts.read(attempt):
                replace(facts, judged=True).write(attempt)
            self.blame.add(int(attempt.name), facts.job if facts else None, verdict)
        except OSError as error:
            self.say(f"{attempt}: cannot be written ({error.strerror})")
        self.say(f"attempt {int(attempt.name)} ended: {verdict.message}")

    def _wait_for_slurm_to_answer(self) -> None:
        """An attempt that begins while its controller is silent fails at once, and would be counted."""
        if self.here.slurm_answers():
            return
        self.say("waiting for SLURM's controller, which does not answer")
        until = time.monotonic() + _CONTROLLER_S
        while time.monotonic() < until and not self.ending.asked and not self.here.slurm_answers():
            time.sleep(_DETECTION_LOOK_S)

    def _wait_for_slurm_to_know(self, lost: Sequence[str]) -> None:
        """That these hosts are lost. Until it does, it would give them to the next job. One that is back is not."""
        self.say(f"waiting until SLURM has seen that {', '.join(lost)} is lost")
        until, asks = time.monotonic() + _DETECTION_S, time.monotonic() + _BACK_S
        while time.monotonic() < until and not self.ending.asked and not set(lost) <= set(hosts_down(lost)):
            time.sleep(_DETECTION_LOOK_S)
            if time.monotonic() > asks:
                if not silent_hosts(lost, self.here.hosts[0]) and self.here.slurm_answers():
                    break
                asks = time.monotonic() + _BACK_S

    # -- before ------------------------------------------------------------------------------------------------

    def _judge_earlier(self) -> None:
        """Attempts whose jobs died without a word: SLURM still knows what became of them, for a while.

        Where the supervisor died with its node, a rank on another one may have written of its collective that broke.
        """
        for number in self.run.attempts():
            attempt = self.run.attempt(number)
            facts, spoken = AttemptFacts.read(attempt), read_verdict(attempt)
            if spoken is not None and (facts is None or facts.judged or spoken.cause != "exception"):
                continue
            state = state_of(facts.job) if facts and facts.job else None
            if spoken is not None and state != "NODE_FAIL":
                continue
            down = hosts_down(facts.hosts) if facts and state == "NODE_FAIL" else []
            self._conclude(attempt, judge_silent(facts, state, down, read_beats(attempt)))

    @property
    def _submission(self) -> str | None:
        return self.submission.path.name if self.submission else None

    def _history(self) -> list[Ended]:
        return history(self.run, self._submission, self.here.job)

    def _config(self) -> Path:
        return self.submission.path / self.job.config if self.submission else Path(self.job.config)

    def _tell(self, following: Next) -> None:
        """What this job came to, for `vitstream status`."""
        if self.submission:
            try:
                write_json(self.submission.ended, {"job": self.here.job} | asdict(following))
            except OSError as error:
                self.say(f"{self.submission.ended}: cannot be written ({error.strerror})")

    def say(self, line: str) -> None:
        with suppress(OSError):  # a full disk: what is to be done is done all the same
            print(f"{time.strftime('%H:%M:%S')} job {self.here.job}: {one_line(line)}", flush=True)


def _refused(error: UsageError | WorkFailed, host: str) -> Verdict:
    """Of a run that cannot start as it is."""
    if isinstance(error, UsageError):
        return Verdict("usage", None, host, "setup", None, False, str(error))
    return Verdict(error.cause, None, host, "setup", None, error.resumable, str(error))


def main() -> int:
    """The command."""
    try:
        path = Path(sys.argv[1]).absolute()
        by_hand = path.suffix != ".json"
        job = job_by_hand(path) if by_hand else read_job(path)
        supervisor = Supervisor(job, None if by_hand else Submission(path.parent), Allocation.ours())
    except (UsageError, WorkFailed) as error:
        with suppress(OSError):
            print(f"vitstream: {one_line(str(error))}", file=sys.stderr, flush=True)
        return error.exit_code
    try:
        return supervisor.work()
    except (UsageError, WorkFailed) as error:  # the run is in use, say: the next jobs would find the same
        return supervisor.end(Next("end the chain", error.exit_code, str(error)))
    except OSError as error:
        why = f"{error.filename or job.run_dir}: {error.strerror}"
        return supervisor.end(Next("end the chain", 1, why))


if __name__ == "__main__":
    code = main()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # the exit code is ours also where a log could not be written
