"""What a run is planned for. Torch-free."""

from dataclasses import dataclass
from typing import Final

from pipeline.launch.gpus import GPUS

DEFAULT_GPU: Final = "H100"
DEFAULT_MFU: Final = 0.4
ASSUMED_MOST: Final = 5000.0  # images/s of a rank: a smaller model waits for other things than arithmetic


@dataclass(frozen=True)
class Machines:
    """Nodes, and the GPUs that its ranks have, one each."""

    nodes: int
    ranks_per_node: int
    memory: int | None  # bytes of a node; None where that is not known
    images_per_s: float | None  # of a rank; None: as `gpu` at `mfu`
    gpu: str = DEFAULT_GPU  # of GPUS
    mfu: float | None = None  # None: DEFAULT_MFU, a guess

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def gpu_bytes(self) -> int:
        return GPUS[self.gpu].memory_bytes

    def rate(self, flops: int | None) -> float:
        """Images per second of a rank, `flops` to train on one."""
        if self.images_per_s:
            return self.images_per_s
        return min(ASSUMED_MOST, self.at_peak / flops) if flops else ASSUMED_MOST

    @property
    def at_peak(self) -> float:
        """Operations per second of a rank."""
        return (self.mfu or DEFAULT_MFU) * GPUS[self.gpu].peak_bf16

    @property
    def told(self) -> str:
        """The speed that is assumed, in words."""
        return f"{self.mfu or DEFAULT_MFU:.0%} of an {self.gpu}'s peak"
