"""Runs on the cluster of the tests: submitted as a user does it, hurt, watched from outside, compared at the end."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cluster.chain import chain_name
from pipeline.cluster.sbatch import script
from pipeline.run.metrics import read_lines
from tests.runs import CHECKOUT, COMMAND, steps_of, verdict_of, write_run
from tests.slurm.cluster import Cluster, as_user

STEPS = 60
# One thread adds up in the same order everywhere.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
WATCHDOG = {"silent_s": 5.0, "least_s": 5.0, "first_s": 60.0, "setup_s": 120.0}
_UNDER_WAY = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")


def tree(nodes: int = 2, tasks: int | None = 2, **overrides) -> dict[str, Any]:
    """A run of STEPS steps of about 50 ms each, with a checkpoint every five steps."""
    slurm = {"nodes": nodes, "tasks_per_node": tasks, "time": "10", "without_progress": 2, "chain": 4}
    return {
        "model": {"name": "vit-ti/8", "image_size": 24, "depth": 1, "width": 32, "heads": 2, "mlp_dim": 64},
        "epochs": None,
        "steps": STEPS,
        "loader": {"workers": 0},
        "evaluate": {"every_steps": 100_000},
        "watchdog": WATCHDOG,
        "slurm": slurm | overrides.pop("slurm", {}),
        **overrides,
    }


def write(path: Path, data: Path | str, **overrides) -> Path:
    """Writes such a run on this dataset; `overrides`: see `tree`."""
    return write_run(path, data, **tree(**overrides))


def python_of(user: str) -> tuple[str, dict[str, str]]:
    """An interpreter that this user may use, and what tells it where our packages are. Skips where there is none.

    Ours may lie in the home of who runs the tests; the system's can do the same with our packages.
    """
    packages = sysconfig.get_path("platlib")
    for python, path in ((sys.executable, str(CHECKOUT)), ("/usr/bin/python3", f"{CHECKOUT}:{packages}")):
        command = [*as_user(user), python, "-P", "-c", "import pipeline.cli, torch, deepspeed"]
        environment = os.environ | {"PYTHONPATH": path}
        if subprocess.run(command, cwd="/", env=environment, capture_output=True).returncode == 0:
            return python, {"PYTHONPATH": path}
    pytest.skip(f"{user} may not use {sys.executable}, and /usr/bin/python3 does not go with its packages")


def told(run_yaml: Path) -> list[tuple]:
    """What each step was; of one that was done twice, the last time."""
    names = ("loss", "grad_norm", "lr", "consumed", "batch_digest")
    return [(step, *(line[name] for name in names)) for step, line in sorted(steps_of(run_yaml).items())]


class ClusterRun:
    """A run, and the jobs that it was submitted as."""

    def __init__(self, cluster: Cluster, run_yaml: Path, user: str | None = None) -> None:
        self.cluster, self.yaml, self.user = cluster, run_yaml, user
        self.folder = run_yaml.with_suffix("")
        self.by_hand: list[int] = []  # jobs

    def submit(self, *arguments: object, **environment: str) -> "ClusterRun":
        """By the command that a user types."""
        done = self.vitstream("submit", self.yaml, *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return self

    def sbatch(self, count: int, *options: object) -> "ClusterRun":
        """By hand, as the head of train.sbatch says; the jobs' name is the one that `submit` would give them."""
        chain = [
            f"--job-name={chain_name(self.folder)}",
            "--dependency=singleton",
            f"--output={self.yaml.parent}/%j.log",
        ]
        environment = os.environ | ENVIRONMENT | self.cluster.environment | {"VITSTREAM_PYTHON": sys.executable}
        command = ["sbatch", "--parsable", *chain, *map(str, options), script("train.sbatch"), self.yaml]
        for _ in range(count):
            self.by_hand.append(int(subprocess.check_output(command, env=environment, cwd=self.yaml.parent)))
        return self

    def vitstream(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        """A command on what would be the login node."""
        words, more = [*COMMAND, *map(str, arguments)], dict[str, str]()
        if self.user:
            python, more = python_of(self.user)
            words = [*as_user(self.user), python, *words[1:]]
            more["HOME"] = str(self.yaml.parent)
        return subprocess.run(
            words,
            cwd=self.yaml.parent,
            env=os.environ | ENVIRONMENT | self.cluster.environment | more | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    # -- what is seen of it ------------------------------------------------------------------------------------

    def jobs(self) -> list[int]:
        """All that were ever queued for it."""
        files = sorted(self.folder.glob("submit/*/jobs"))
        return self.by_hand + [int(word) for file in files for word in file.read_text().split()]

    def states(self) -> list[str]:
        """Of its jobs, in the same order."""
        known = {job: self.cluster.job(job)["JobState"] for job in self.jobs()}
        return [known[job] for job in self.jobs()]

    def running(self) -> int:
        """The job that runs now."""
        (job,) = [job for job, state in zip(self.jobs(), self.states(), strict=True) if state == "RUNNING"]
        return job

    def attempts(self) -> int:
        """How many have begun."""
        return len(list(self.folder.glob("attempts/*")))

    def steps(self, attempt: int) -> list[int]:
        """Done in this attempt."""
        path = self.folder / "metrics.jsonl"
        lines = list(read_lines(path)) if path.exists() else []
        return [line["step"] for line in lines if line.get("attempt") == attempt and "loss" in line]

    def hosts(self, attempt: int) -> list[str]:
        """On which it ran."""
        return json.loads((self.folder / "attempts" / f"{attempt:03d}" / "attempt.json").read_text())["hosts"]

    def verdict(self, attempt: int) -> dict:
        return verdict_of(self.yaml, attempt)

    def said(self) -> str:
        """All logs and verdicts, for whoever has to find out."""
        patterns = ("../*.log", "submit/*/*.log", "attempts/*/*.log", "attempts/*/verdict.json", "blame.jsonl")
        files = [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]
        return "\n".join(f"== {file}\n{file.read_text()[-3000:]}" for file in files)

    def rank(self, rank: int) -> psutil.Process:
        """The process of a rank, on whichever node."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "train" in command and any(word.startswith(f"{self.folder}/attempts/") for word in command):
                try:
                    if process.environ().get("SLURM_PROCID") == str(rank) and command[0] != "srun":
                        found.append(process)
                except psutil.Error:
                    continue
        assert found, f"rank {rank} is nowhere\n{self.said()}"
        return min(found, key=lambda process: process.create_time())  # its helpers came later

    # -- waiting -----------------------------------------------------------------------------------------------

    def until(self, true: Callable[[], object], what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                queue = self.cluster.run("squeue", "--states=all")
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{queue}\n{self.said()}")
            time.sleep(0.05)

    def until_steps(self, count: int, attempt: int) -> None:
        """Until an attempt has done so many steps."""
        self.until(lambda: len(self.steps(attempt)) >= count, f"{count} steps of attempt {attempt}")

    def until_verdict(self, attempt: int, seconds: float = 90.0) -> dict:
        path = self.folder / "attempts" / f"{attempt:03d}" / "verdict.json"
        self.until(path.exists, f"a verdict on attempt {attempt}", seconds)
        return self.verdict(attempt)

    def until_over(self, seconds: float = 120.0) -> list[str]:
        """Until no job of it is queued or running. Returns their states."""
        self.until(lambda: self.jobs() and not set(self.states()) & set(_UNDER_WAY), "the end of all jobs", seconds)
        return self.states()

    # -- hurting it --------------------------------------------------------------------------------------------

    def hurt(self, how: Callable[[], object], attempt: int, recovery_s: float = 60.0) -> float:
        """Hurts the attempt under way, and waits for the first step of the next.

        Returns:
            Seconds from one to the other: at most `recovery_s`, which is generous, since the machine is shared.
        """
        how()
        began = time.monotonic()
        self.until_steps(1, attempt + 1)
        took = time.monotonic() - began
        assert took < recovery_s, f"{took:.0f} s\n{self.said()}"
        return took

    def warn(self) -> None:
        """What SLURM sends before the time limit."""
        self.cluster.run("scancel", "--batch", "--signal=USR1", self.running(), user=self.user)

    def kill_rank(self, rank: int, signum: signal.Signals = signal.SIGKILL) -> None:
        self.rank(rank).send_signal(signum)


def assert_same_as(run: ClusterRun, undisturbed: list[tuple]) -> None:
    """Every step was what it is where nothing happens, to the last bit; the last verdict says that all is done."""
    assert run.verdict(run.attempts() - 1)["cause"] == "finished", run.said()
    assert told(run.yaml) == undisturbed


@contextmanager
def looking_for(secret: str) -> Iterator[set[str]]:
    """Samples the command lines of all processes, meanwhile. Yields those with the secret in them."""
    script = (
        "import pathlib, sys, time\n"
        "secret, found = sys.stdin.readline().strip(), set()\n"
        "print('looking', flush=True)\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n"
        "    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "        try:\n"
        "            line = path.read_bytes()\n"
        "        except OSError:\n"
        "            continue\n"
        "        if secret.encode() in line:\n"
        "            found.add(line.replace(b'\\0', b' ').decode(errors='replace'))\n"
        "    time.sleep(0.1)\n"
        "print(__import__('json').dumps(sorted(found)))\n"
    )
    stop = Path(f"/tmp/vitstream-looked-{os.getpid()}-{time.monotonic_ns()}")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    looker = subprocess.Popen([sys.executable, "-c", script, str(stop)], **pipes)
    assert looker.stdin and looker.stdout
    looker.stdin.write(f"{secret}\n")
    looker.stdin.flush()
    looker.stdout.readline()
    found: set[str] = set()
    try:
        yield found
    finally:
        stop.touch()
        found |= set(json.loads(looker.communicate()[0]))
        stop.unlink()


def assert_unsaid(secret: str, run: ClusterRun, seen: set[str]) -> None:
    """A secret in the environment of whoever submitted is in no file of the run, in no script, and in no job's words.

    `seen`: command lines that had it.
    """
    assert not seen, seen
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]
    for job in run.jobs():
        assert secret not in run.cluster.run("scontrol", "show", "job", "-dd", job)
        assert secret not in run.cluster.run("scontrol", "write", "batch_script", job, "-")
