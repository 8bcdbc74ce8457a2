"""One attempt's ranks, from srun to the verdict: watched, asked to save, ended where they hang or break. Torch-free."""

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from pipeline.cluster.allocation import Allocation, is_preempted
from pipeline.cluster.ending import Ending
from pipeline.cluster.job import JobFile
from pipeline.cluster.judge import Evidence, judge
from pipeline.cluster.srun import Srun, on_host, silent_hosts
from pipeline.cluster.words import Words
from pipeline.dataset.errors import StoppedResumable
from pipeline.launch.lookout import Lookout
from pipeline.run.beat import Beat
from pipeline.run.hang import record_hang
from pipeline.run.verdict import Verdict, read_verdict

_SLEEP_S: Final = 0.25
_GRACE_S: Final = 2.0  # for the other ranks to end, and to be heard of, after one has failed
_REPEAT_S: Final = 3.0  # until the ranks are told again to stop: some may have been starting
_MOST_BYTES: Final = 2**20  # of logs that are searched


class Watch:
    """Over the ranks of one attempt."""

    def __init__(self, job: JobFile, here: Allocation, ending: Ending, attempt: Path, lookout: Lookout) -> None:
        self._job, self._here, self._ending = job, here, ending
        self._attempt, self._lookout = attempt, lookout
        self._log = LogTail()

    def over(self, step: Srun) -> Verdict:
        """Until all ranks have ended. Returns why they did."""
        hang = None
        try:
            hang = self._until_they_end_or_must(step)
        finally:
            step.kill()
        return hang or self._judge(step)

    def _until_they_end_or_must(self, step: Srun) -> Verdict | None:
        """The verdict where one hangs."""
        told_at = failed_at = 0.0
        while not step.ended():
            now = time.monotonic()
            self._ending.mind_the_time(now)
            if self._ending.asked and now - told_at >= _REPEAT_S:
                step.signal(signal.SIGUSR1)
                told_at = now
            if _has_failed(step.words):
                failed_at = failed_at or now
                if now - failed_at > _GRACE_S:
                    return None
            elif late := self._lookout.look():
                late = replace(late, host=late.host or self._host_of(late.rank))  # it never said a word
                stacks = lambda: step.signal(signal.SIGUSR2)  # noqa: E731
                return record_hang(self._attempt, late, self._lookout.beats, _kernel_state, stacks)
            time.sleep(_SLEEP_S)
        return None

    def _judge(self, step: Srun) -> Verdict:
        words = step.words
        for line in self._log.lines():
            words.hear(line)
        words.lost += self._silent_hosts(words)
        end, spoken = words.first_end, read_verdict(self._attempt)
        evidence = Evidence(
            spoken=spoken,
            words=words,
            beats=self._lookout.last_beats(),
            asked=self._ending.asked,
            time_left_s=self._here.time_left_s() if self._ending.asked else None,
            exit_code=step.exit_code,
            said=_last_words(self._attempt / f"rank-{end.rank}.log") if end else None,
            preempted=spoken is not None and spoken.is_of_a_stop and is_preempted(self._here.job),
            log=str(self._attempt),
        )
        return judge(evidence, self._job.lead_s)

    def _host_of(self, rank: int) -> str:
        return self._here.hosts[rank // self._job.tasks_per_node]

    def _silent_hosts(self, words: Words) -> list[str]:
        """Hosts of ranks of whose end nobody has told, though others have failed, and that do not answer either."""
        if not (words.ends or words.errors) or self._ending.asked:
            return []
        hosts = self._here.hosts
        places = {end.rank // self._job.tasks_per_node for end in words.ends}
        unheard = [host for place, host in enumerate(hosts) if place not in places]
        return silent_hosts(unheard, hosts[0])


def _has_failed(words: Words) -> bool:
    end = words.first_end
    return bool(words.lost) or (end is not None and end.exit_code != StoppedResumable.exit_code)


def _kernel_state(beat: Beat) -> str:
    """Of a rank's process, asked on its host. Raises OSError where that does not answer."""
    said = on_host(beat.host, [sys.executable, "-P", "-m", "pipeline.run.stacks", str(beat.pid)])
    if not said:
        raise OSError(f"{beat.host} does not answer")
    return said


def _last_words(log: Path) -> str | None:
    """What a rank said when it ended, in its log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _MOST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.removeprefix("vitstream: ") for line in reversed(lines) if line.startswith("vitstream: ")), None)


class LogTail:
    """What comes into the job's log from now on: slurmstepd writes there, too, why a job is cancelled."""

    def __init__(self) -> None:
        self._path = Path("/proc/self/fd/2").resolve()
        self._from = self._path.stat().st_size if self._path.is_file() else 0

    def lines(self) -> list[str]:
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._from)
            return file.read(_MOST_BYTES).decode(errors="replace").splitlines()
