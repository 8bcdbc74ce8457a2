"""What a rank's steps take of time and memory, and which host is the slowest."""

import resource

import torch

from pipeline.clock import Clock, Part
from pipeline.distributed import World
from pipeline.launch.environment import host_name


class Meter:
    """One rank's. Every rank makes it, and reads it, at the same time."""

    def __init__(self, world: World) -> None:
        self.clock = Clock(world.device)
        self._world = world
        self._hosts: list[str] = world.all_gather(host_name())  # of each rank

    def read(self, agreed_s: list[float]) -> tuple[list[dict[Part, float]], dict[str, object]]:
        """Of the steps since the last call, of which `agreed_s` is what each waited for the other ranks' data.

        Only after something else has waited for the device. One small reduction of what the hosts know.

        Returns:
            Seconds of each step's parts, this rank's; and the flush's fields of metrics.jsonl, of all ranks.
        """
        steps = self.clock.read()
        own_s = sum(map(own_time, steps, agreed_s)) / len(steps)
        everyones = torch.zeros(self._world.size, 3, dtype=torch.float64)
        everyones[self._world.rank] = torch.tensor([own_s, *_peaks(self._world.device)], dtype=torch.float64)
        seconds, *memory = self._world.total(everyones).T.tolist()
        host, device = (int(max(each)) for each in memory)
        told: dict[str, object] = {"device_memory_bytes": device or None, "host_memory_bytes": host}
        slowest: dict[str, float] = {}
        for name, each in zip(self._hosts, seconds, strict=True):
            slowest[name] = max(slowest.get(name, 0.0), round(each, 6))
        return steps, told | ({"hosts": slowest} if len(slowest) > 1 else {})


def own_time(step: dict[Part, float], agreed_s: float) -> float:
    """Seconds of a step that a rank needs itself, before it waits for others: its data, and its forward passes.

    At stage 3 a forward pass gathers weights, and waits there for the slowest, too.
    """
    return max(0.0, step["data"] - agreed_s) + step["forward"]


def _peaks(device: torch.device) -> tuple[int, int]:
    """Bytes: of this process's main memory, ever; of its GPU's that tensors had, since the last call."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type != "cuda":
        return host, 0
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return host, peak
