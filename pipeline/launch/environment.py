"""Who this process is. Torch-free."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RankEnvironment:
    """Who this process is, as its launcher says: ours, torchrun, Kubernetes (RANK) or srun (SLURM_PROCID)."""

    rank: int
    world_size: int
    local_rank: int

    @classmethod
    def read(cls) -> "RankEnvironment | None":
        """None where no launcher made this process a rank."""
        env = os.environ
        if "RANK" in env:
            return cls(int(env["RANK"]), int(env.get("WORLD_SIZE", "1")), int(env.get("LOCAL_RANK", "0")))
        if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:
            return cls(int(env["SLURM_PROCID"]), int(env.get("SLURM_NTASKS", "1")), int(env.get("SLURM_LOCALID", "0")))
        return None


def default_processes() -> int:
    """One per visible GPU, or 1: without torch, from what the driver shows."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([device for device in visible.split(",") if device.strip() not in ("", "-1")]))
    return max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))
