"""Who this process is. Torch-free."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset.errors import UsageError

# Save, and end with exit code 3. SIGHUP is a terminal that was closed; under nohup it is ignored, and stays so.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) + (
    () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
)
STACKS_SIGNAL = signal.SIGUSR2  # a rank writes where its threads stand (run/stacks.py), and goes on
SIGNALS = (*STOP_SIGNALS, STACKS_SIGNAL)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """A process that is started meanwhile is born deaf to them, until it can answer, or has said that it will not."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What our launcher tells its ranks besides RANK, LOCAL_RANK and WORLD_SIZE.
PARENT_PID, ATTEMPT, RENDEZVOUS = "VITSTREAM_PARENT_PID", "VITSTREAM_ATTEMPT", "VITSTREAM_RENDEZVOUS"
MASTER_ADDRESS = "VITSTREAM_MASTER_ADDR"  # rank 0's machine, where ranks of several meet (pipeline/rendezvous.py)


def attempt_told() -> Path | None:
    """The folder of the attempt that this rank belongs to, where our launcher says it; it is known before all else."""
    told = os.environ.get(RENDEZVOUS)
    return Path(told).parent if told and ATTEMPT in os.environ else None


def host_name() -> str:
    """This machine, by SLURM's name where it started us: only that one can be excluded. Others add a domain, say."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class RankEnvironment:
    """Who this process is, as its launcher says: ours, torchrun, Kubernetes (RANK) or srun (SLURM_PROCID)."""

    rank: int
    world_size: int
    local_rank: int

    @classmethod
    def read(cls) -> "RankEnvironment | None":
        """None where no launcher made this process a rank. A lone task of srun is a shell, unless it has an attempt.

        Raises:
            UsageError: a variable that is no number.
        """
        env = os.environ
        try:
            if "RANK" in env and MASTER_ADDRESS not in env:  # a shell of the user's may have one
                place = (int(env["RANK"]), int(env.get("WORLD_SIZE", "1")), int(env.get("LOCAL_RANK", "0")))
            elif "SLURM_PROCID" in env and (ATTEMPT in env or int(env.get("SLURM_NTASKS", "1")) > 1):
                tasks, local = env.get("SLURM_NTASKS", "1"), env.get("SLURM_LOCALID", "0")
                place = (int(env["SLURM_PROCID"]), int(tasks), int(local))
            else:
                return None
            int(env.get("MASTER_PORT", "0"))
        except ValueError as error:
            raise UsageError(f"RANK, WORLD_SIZE, LOCAL_RANK, MASTER_PORT or SLURM_*: no number ({error})") from None
        if not 0 <= place[0] < place[1] or place[2] < 0:
            raise UsageError(f"RANK {place[0]} of WORLD_SIZE {place[1]}, LOCAL_RANK {place[2]}: there is no such rank")
        return cls(*place)


def default_processes() -> int:
    """One per visible GPU, or 1: without torch, from what the driver shows."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([device for device in visible.split(",") if device.strip() not in ("", "-1")]))
    return max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))
