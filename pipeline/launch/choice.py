"""Which ZeRO template suits a run, by what fits into its GPUs. Pure, torch-free.

All of them compute the same. They differ in what they cost, from little to much:

    zero1           the optimizer's state is shared out: one reduction and one gathering of weights a step
    zero2           the gradients, too: as much is sent
    recomputing     of blocks in the backward pass (activation checkpointing): up to a third more to compute
    zero3           the weights, too: they are gathered twice in every micro-batch, and blocks cannot be compiled
    zero3_offload   the optimizer's state lies in main memory, and its step is the processor's

So the first that fits is taken. With one rank there is nothing to share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.config import Config
from pipeline.dataset.quantities import human_bytes
from pipeline.launch.gpu_memory import USABLE, GpuMemory, gpu_memory
from pipeline.launch.machines import Machines

_IN_ORDER: Final = (  # of what they cost; whether blocks are recomputed
    ("zero1", False),
    ("zero2", False),
    ("zero1", True),
    ("zero2", True),
    ("zero3", True),
    ("zero3_offload", True),
)


@dataclass(frozen=True)
class Choice:
    """The first template that fits, and what it needs; the last, where none does."""

    zero: str
    memory: GpuMemory
    fits: bool

    def told(self, zero: str) -> str:
        """Beside the template that is taken, in words."""
        if not self.fits:
            return "nothing fits"
        memory = self.memory
        some = f", with {memory.recomputed} of {memory.blocks} blocks recomputed" if memory.recomputed else ""
        if zero == self.zero:
            return f"the first that fits{some}"
        return f"{self.zero} is the first that fits: {human_bytes(memory.peak)}{some}"


def choose(
    config: Config, classes: int, ranks: int, accumulation: int, micro_batch: int, capacity: int
) -> Choice | None:
    """None where the memory of the model is not known."""
    choice = None
    for zero, recomputes in _IN_ORDER:
        levers = {"compile": "auto", "activation_checkpointing": "auto" if recomputes else 0.0}
        engine = config.engine.model_copy(update=levers)
        asked = config.model_copy(update={"zero": zero, "engine": engine})
        memory = gpu_memory(asked, classes, ranks, accumulation, micro_batch, capacity)
        if memory is None:
            return None
        choice = Choice(zero, memory, memory.fits(capacity))
        if choice.fits:
            break
    return choice


def gpu_warnings(memory: GpuMemory | None, choice: Choice | None, machines: Machines) -> Iterator[str]:
    """What a run asks of its GPUs and they do not have."""
    if memory is None or choice is None or memory.fits(machines.gpu_bytes):
        return
    fix = f"take zero: {choice.zero}" if choice.fits else "no template makes it fit: take a smaller micro_batch_size"
    yield (
        f"a rank needs {human_bytes(memory.peak)} of its GPU's memory, and {USABLE:.0%} of an {machines.gpu}'s are "
        f"{human_bytes(round(USABLE * machines.gpu_bytes))}: {fix}"
    )
