"""attempts/NNN/attempt.json: where and when an attempt began; and what became of those of a submission. Torch-free."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipeline.cluster.policy import Ended
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import read_regular, write_json
from pipeline.run.directory import RunDirectory
from pipeline.run.published_file import PublishedFile
from pipeline.run.verdict import read_verdict

_NAME: Final = "attempt.json"


@dataclass(frozen=True)
class AttemptFacts:
    """What is known when an attempt begins; and, later, that it was judged."""

    job: int | None
    restart: int  # how many attempts this job made before
    hosts: tuple[str, ...]  # in order of rank
    tasks_per_node: int
    started: float  # seconds since 1970
    published: int | None  # the step of the newest checkpoint then
    submit: str | None  # RUN/submit/NNN
    judged: bool = False  # its supervisor has had its say on the verdict

    def write(self, attempt: Path) -> None:
        """Raises OSError."""
        write_json(attempt / _NAME, asdict(self))

    @classmethod
    def read(cls, attempt: Path) -> "AttemptFacts | None":
        """None for an attempt on one machine, or one of which nothing can be read."""
        try:
            facts = cls(**json.loads(read_regular(attempt / _NAME)))
            sound = isinstance(facts.job, int | None) and all(isinstance(host, str) for host in facts.hosts)
            return cls(**asdict(facts) | {"hosts": tuple(facts.hosts)}) if sound else None
        except (OSError, ValueError, TypeError):
            return None

    def host_of(self, rank: int) -> str | None:
        """Ranks fill the hosts one after the other."""
        place = rank // self.tasks_per_node
        return self.hosts[place] if place < len(self.hosts) else None


def newest_published(run: RunDirectory) -> int | None:
    """The step of the newest checkpoint, as it was told when it was published."""
    try:
        return run.published_file.read()
    except (OSError, UsageError):
        return None


def history(run: RunDirectory, submit: str | None, job: int | None) -> list[Ended]:
    """The attempts of a submission that have a verdict, in order; of a job by hand (no submission), the job's own."""
    found = []
    numbers = run.attempts()
    known = {number: AttemptFacts.read(run.attempt(number)) for number in numbers}
    for place, number in enumerate(numbers):
        facts, verdict = known[number], read_verdict(run.attempt(number))
        ours = facts is not None and (facts.submit == submit if submit else facts.job == job)
        if facts is None or verdict is None or not ours:
            continue
        later = [known[after].published for after in numbers[place + 1 :] if known[after] is not None]
        after = later[0] if later else newest_published(run)
        found.append(Ended(number, facts.job, verdict, progressed=after != facts.published))
    return found


def has_begun_anew(run: RunDirectory, ours: list[Ended]) -> bool:
    """Whether one of these attempts, of a run from scratch, has set aside what was there before.

    One that dies early has not, and the next must not go on with what was to be given up.
    """
    before = AttemptFacts.read(run.attempt(ours[0].number)) if ours else None
    if before is None:
        return False
    if before.published is None:  # nothing was there
        return newest_published(run) is not None
    return any(PublishedFile.of(run.aside(ended.number)).path.exists() for ended in ours)
