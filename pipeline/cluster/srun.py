"""One attempt's ranks: a step of the job, started by srun and spoken to through it. Torch-free.

srun passes SIGUSR1 and SIGUSR2 on to all tasks on all nodes, and takes SIGTERM as an order to kill them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from pipeline.cluster.job import JobFile
from pipeline.cluster.sbatch import file_pattern
from pipeline.cluster.words import Words
from pipeline.launch.environment import ATTEMPT, MASTER_ADDRESS, RENDEZVOUS

_KILL_S: Final = 10.0  # for srun to see the tasks off, after which it is killed itself
_ASIDE_S: Final = 15.0  # for a look at another node
_AT_ONCE: Final = 16  # such looks: behind a switch that is dead there are many nodes
# srun would take these for its own options; what it is to do is on its command line.
_NOT_FOR_SRUN: Final = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_CPU_BIND", "SRUN_")


def command(job: JobFile, attempt: Path, extra: Sequence[str]) -> list[str]:
    """srun and its arguments. Every rank sees all GPUs of its node: collectives between them need that."""
    words = [
        "srun",
        f"--nodes={job.nodes}",
        f"--ntasks={job.nodes * job.tasks_per_node}",
        f"--ntasks-per-node={job.tasks_per_node}",
        "--distribution=block",  # ranks fill one node after the other
        "--kill-on-bad-exit=1",
        "--wait=0",  # a site's own limit would kill ranks that still save
        "--open-mode=append",
        f"--output={file_pattern(attempt)}/rank-%t.log",
        "--export=ALL",
    ]
    if job.gpus_per_node:
        words.append(f"--gpus-per-node={job.gpus_per_node}")
    if job.cpus_per_task:
        words.append(f"--cpus-per-task={job.cpus_per_task}")  # since 22.05 srun does not take sbatch's
    rank = [*job.container, job.python, "-P", "-m", "pipeline.cli", "train", str(attempt / "config.yaml")]
    return [*words, *rank, *extra]


def environment(job: JobFile, attempt: Path, master: str) -> dict[str, str]:
    """What the ranks inherit; who they are they learn from SLURM_PROCID."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_SRUN)}
    env |= {ATTEMPT: str(int(attempt.name)), RENDEZVOUS: str(attempt / "rendezvous.json"), MASTER_ADDRESS: master}
    if not job.gpus_per_node:
        env.setdefault("OMP_NUM_THREADS", str(job.cpus_per_task or 1))
    return env


class Srun:
    """A step under way."""

    def __init__(self, words: Sequence[str], env: dict[str, str]) -> None:
        """Raises OSError where there is no srun."""
        self.words = Words()
        self._process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def _listen(self, stderr: IO[bytes]) -> None:
        for line in stderr:
            text = line.decode(errors="replace").rstrip()
            self.words.hear(text)
            with suppress(OSError):  # a full disk must not make srun wait for somebody to listen
                print(text, file=sys.stderr, flush=True)  # into the job's log

    def ended(self) -> bool:
        """Whether all ranks have, and all that srun said of them is heard."""
        if self._process.poll() is None:
            return False
        self._listener.join(1.0)
        return True

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def signal(self, signum: signal.Signals) -> None:
        """To every rank."""
        if self._process.poll() is None:
            self._process.send_signal(signum)

    def kill(self) -> None:
        """Every rank, at once, also stopped ones. Returns when srun has ended."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + _KILL_S
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._process.poll() is None:  # a node that does not answer
            self._process.kill()
            self._process.wait()


def on_host(host: str, words: Sequence[str]) -> str:
    """What a command prints on one of the job's hosts, beside the ranks; empty where the host does not answer."""
    aside = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--mem=0", "--export=ALL", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_SRUN)}
    try:
        done = subprocess.run(aside, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASIDE_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def silent_hosts(hosts: Sequence[str], ours: str) -> list[str]:
    """Those of these hosts that do not answer; none where SLURM reaches not even our own, which is there."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda host: on_host(host, ["echo", "here"]), hosts)
        silent = [host for host, answer in zip(hosts, answers, strict=True) if not answer]
    if not silent or ours in silent or (ours not in hosts and not on_host(ours, ["echo", "here"])):
        return []
    return silent
