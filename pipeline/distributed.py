"""The ranks of a run and what they say to each other besides gradients.

Control messages are JSON in byte tensors over a gloo group of their own: they never wait for the GPU, and nothing
is unpickled (torch's `*_object` collectives would).
"""

import copy
import json
import os
import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from pipeline.dataset.errors import UsageError
from pipeline.launch.environment import RankEnvironment
from pipeline.rendezvous import meet

_FLAG: Final = "stop"
_BESIDE_PATIENCE: Final = timedelta(days=1)  # for the slowest rank's disk; a rank that dies is noticed at once


class World:
    """The process groups of a run: the default one for gradients (NCCL or gloo), and one for control (gloo)."""

    def __init__(self, environment: RankEnvironment, rendezvous: str | None = None) -> None:
        """Joins the other ranks.

        Args:
            environment: this process's place.
            rendezvous: a file of this attempt's, by which its ranks meet; else MASTER_ADDR and MASTER_PORT say where.
        """
        self.rank, self.size = environment.rank, environment.world_size
        self.host = socket.gethostname()
        on_gpu = torch.cuda.is_available()
        self.device = _gpu(environment.local_rank) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(self.size), LOCAL_RANK=str(environment.local_rank))
        store = meet(self.rank, self.size, rendezvous)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.size,
            device_id=self.device if on_gpu else None,
        )
        self.control = dist.new_group(backend="gloo")
        self._flags = dist.PrefixStore("vitstream-flags", store)
        self.local_size = self.all_gather(self.host).count(self.host)  # ranks on this machine

    def beside(self) -> "World":
        """The same ranks, with a control group of its own, for a thread: what it says cannot mix with our words.

        Every rank calls it at the same time.
        """
        other = copy.copy(self)
        other.control = dist.new_group(backend="gloo", timeout=_BESIDE_PATIENCE)
        return other

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds a device tensor over all ranks, in place."""
        dist.all_reduce(tensor)
        return tensor

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The greatest of all ranks' numbers, element by element; of a CPU tensor, in place. No GPU is waited for."""
        if self.size > 1:  # a collective is slow where it has nothing to do, too
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return tensor

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' numbers, element by element; of a CPU tensor, in place. No GPU is waited for."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.control)
        return tensor

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's JSON value, on every rank, in order of rank."""
        payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(payload)]), group=self.control)
        longest = int(max(lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(payload)] = payload
        received = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(received, padded, group=self.control)
        return [json.loads(r[: int(n)].numpy().tobytes()) for r, n in zip(received, lengths, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's JSON value, on every rank."""
        return self.all_gather(value if self.is_main else None)[0]

    def barrier(self) -> None:
        dist.barrier(group=self.control)

    def raise_flag(self) -> None:
        """For the other ranks to see, for good. No collective: any thread may call it, at any time."""
        with suppress(RuntimeError):  # where they meet has gone, and soon so will they
            self._flags.set(_FLAG, "up")

    def flag_is_up(self) -> bool:
        """Whether any rank has raised it. It takes a question to where they meet: not for every step."""
        with suppress(RuntimeError):
            return self._flags.check([_FLAG])
        return False

    def close(self) -> None:
        dist.destroy_process_group()


def _gpu(local_rank: int) -> torch.device:
    """This rank's GPU. Where a launcher shows each rank one GPU only, that one is number 0 for all of them."""
    visible = torch.cuda.device_count()
    if visible > 1 and local_rank >= visible:
        raise UsageError(f"--nproc: local rank {local_rank} has no GPU of its own: {visible} are visible here")
    return torch.device("cuda", local_rank if visible > 1 else 0)
