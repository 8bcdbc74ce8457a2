"""What SLURM says of jobs and nodes: squeue and scontrol, asked with a limit in time, and their text understood.

Works without accounting: of a job that has ended the controller knows for some minutes (MinJobAge). Torch-free.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.cluster.hosts import expand, is_host_list
from pipeline.cluster.states import State, parse_state
from pipeline.dataset.errors import WorkFailed

_PATIENCE_S: Final = 30.0  # a controller that is down answers late, or not at all
_COLUMNS: Final = "%i|%T|%r|%S|%L|%N|%j"  # the name last: a foreign one may hold anything
_SETTINGS: Final = ("SQUEUE_", "SLURM_TIME_FORMAT", "SCONTROL_", "SINFO_")  # of the user, for tables that people read


class NoAnswer(WorkFailed):
    """SLURM is not here, or did not answer."""


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    id: int
    name: str
    state: State
    reason: str  # why it waits; empty where it does not
    start: float | None  # unix seconds: when it started, or may; None: nobody knows
    left_s: int | None  # until its limit; None: it has none, or that is not known
    nodes: str  # as SLURM abbreviates them

    @property
    def is_waiting(self) -> bool:
        return self.state.kind == "waiting"

    @property
    def is_running(self) -> bool:
        return self.state.kind == "running"

    def __str__(self) -> str:
        return f"job {self.id} ({self.state})"


@dataclass(frozen=True)
class JobDetails:
    """A job as scontrol shows it, for some minutes after its end, too."""

    id: int
    state: State
    reason: str
    exit_code: str  # CODE:SIGNAL
    nodes: str
    excluded: str  # ExcNodeList, as SLURM abbreviates it
    restarts: int
    partition: str = ""
    preempted: bool = False  # told to make way, though it may run on for its grace time


def is_here() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def jobs_named(name: str) -> list[Job]:
    """This user's jobs of a name, those that ended some minutes ago included, by id. Raises NoAnswer."""
    return _squeue(f"--name={name}", f"--user={os.getuid()}")


def jobs_with(ids: Iterable[int]) -> list[Job]:
    """Those of these jobs that SLURM knows, by id. Raises NoAnswer."""
    found = []
    wanted = sorted(set(ids))
    if wanted:
        try:
            found = _squeue(f"--jobs={','.join(map(str, wanted))}")
        except NoAnswer as error:
            if "Invalid job id" not in str(error):
                raise
    return [job for job in found if job.id in wanted]


def details(job: int) -> JobDetails | None:
    """Of one job; None where SLURM knows of none. Raises NoAnswer."""
    try:
        return parse_details(_ask("scontrol", "show", "job", "-o", str(job)))
    except NoAnswer as error:
        if "Invalid job id" in str(error):
            return None
        raise


def hostnames(nodes: str) -> list[str]:
    """Names of the hosts that SLURM abbreviates, in its order. Raises NoAnswer.

    A form of other versions (22.05 knows no `a[1-3]-ib0`) it answers with nothing; then we read it ourselves.
    """
    if not nodes:
        return []
    found = _ask("scontrol", "show", "hostnames", _host_list(nodes)).split()
    try:
        return found or expand(nodes)
    except ValueError as error:
        raise NoAnswer(f"scontrol: {error}") from None


def addresses(nodes: str) -> dict[str, str]:
    """Name of each host -> where the others reach it. Raises NoAnswer."""
    return parse_addresses(_ask("scontrol", "show", "node", "-o", _host_list(nodes)))


def hosts_in_state(hosts: Sequence[str], states: Sequence[str]) -> list[str]:
    """Those of these hosts of whose states (IDLE, DOWN*, DOWN+DRAIN, ...) one is among `states`. Raises NoAnswer."""
    text = _ask("scontrol", "show", "node", "-o", _host_list(",".join(hosts))) if hosts else ""
    found = (re.match(r"NodeName=(\S+) .*?\bState=(\S+)", line) for line in text.splitlines())
    return [each[1] for each in found if each and set(re.findall(r"[A-Z_]+", each[2])) & set(states)]


def hosts_of(partition: str) -> list[str]:
    """All hosts of a partition, or of several, with commas between; also those that are down. Raises NoAnswer."""
    return sorted(set(_ask("sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N").split()))


def parse_addresses(text: str) -> dict[str, str]:
    """Of what `scontrol show node -o` prints."""
    found = (re.match(r"NodeName=(\S+) .*?\bNodeAddr=(\S+)", line) for line in text.splitlines())
    return {each[1]: each[2] for each in found if each}


def parse_jobs(text: str) -> Iterator[Job]:
    """Of what squeue prints in our columns; tasks of arrays, and lines that are none of ours, are passed over."""
    for line in text.splitlines():
        columns = line.split("|", 6)
        if len(columns) == 7 and re.fullmatch(r"\d{1,18}", columns[0], re.ASCII):
            number, state, reason, start, left, nodes, name = columns
            yield Job(
                int(number),
                name,
                parse_state(state),
                "" if reason in ("None", "(null)") else reason,
                parse_time(start),
                parse_left(left),
                "" if nodes in ("(null)", "n/a", "N/A") else nodes,
            )


def parse_details(text: str) -> JobDetails | None:
    """Of what `scontrol show job -o` prints; None where it is no job's line."""

    def value(key: str, otherwise: str = "") -> str:
        found = re.search(rf"(?:^|\s){key}=(\S*)", text)
        return otherwise if found is None or found[1] in ("(null)", "None") else found[1]

    number = value("JobId")
    if not re.fullmatch(r"\d{1,18}", number, re.ASCII):
        return None
    restarts = value("Restarts", "0")
    return JobDetails(
        int(number),
        parse_state(value("JobState", "UNKNOWN")),
        value("Reason"),
        value("ExitCode"),
        value("NodeList"),
        value("ExcNodeList"),
        int(restarts) if restarts.isdecimal() else 0,
        value("Partition"),
        bool(value("PreemptTime")),
    )


def parse_time(text: str) -> float | None:
    """2026-11-29T18:00:00, local time, as unix seconds; None where it is not known."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def parse_left(text: str) -> int | None:
    """D-HH:MM:SS, HH:MM:SS or MM:SS in seconds; 0 where the limit is over (INVALID); None: no limit, or unknown."""
    found = re.fullmatch(r"(?:(?:(\d{1,9})-)?(\d{1,9}):)?(\d{1,9}):(\d\d)", text, re.ASCII)
    if not found:
        return 0 if text == "INVALID" else None
    days, hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _squeue(*which: str) -> list[Job]:
    text = _ask("squeue", "--noheader", "--states=all", f"--format={_COLUMNS}", *which)
    return sorted(parse_jobs(text), key=lambda job: job.id)


def _host_list(nodes: str) -> str:
    """Raises NoAnswer for what could be an option, or another command's word."""
    if not is_host_list(nodes):
        raise NoAnswer(f"scontrol: {nodes!r} is no list of hosts")
    return nodes


def _ask(*command: str) -> str:
    """What one of SLURM's commands prints. Raises NoAnswer, in the command's own words."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    try:
        done = subprocess.run(
            command,
            env=environment | {"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
        )
    except OSError:
        raise NoAnswer(f"{command[0]}: not found; SLURM is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]}: no answer within {_PATIENCE_S:.0f} s") from None
    if any(words in done.stderr for words in ("establish a configuration source", "process configuration file")):
        raise NoAnswer(f"{command[0]}: is here, but no cluster is configured on this machine")
    if done.returncode:
        raise NoAnswer(f"{command[0]}: {'; '.join(done.stderr.split(chr(10))).strip('; ') or done.returncode}")
    return done.stdout


def update(job: int, setting: str, value: str) -> None:
    """`scontrol update`. Raises NoAnswer."""
    _ask("scontrol", "update", f"JobId={job}", f"{setting}={value}")


def cancel(jobs: Sequence[int], state: Literal["PENDING"] | None = None) -> None:
    """Cancels these jobs, as far as they are there, and in that state. Raises NoAnswer."""
    if jobs:
        only = [f"--state={state}"] if state else []
        try:
            _ask("scancel", "--quiet", *only, *map(str, jobs))
        except NoAnswer as error:
            if "not found" in str(error) or "no answer" in str(error):
                raise
