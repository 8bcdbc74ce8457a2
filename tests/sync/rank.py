"""A run of one rank, of whose steps it is told where the host waits for the device.

python -m tests.sync.rank RUN.yaml OUT [STEP:PLANT...]      as one of tests/ranks.py

The first two steps are not watched: there, DeepSpeed and the optimizer make what they keep. OUT: {step: [place, ...]}
as JSON. PLANT is where in a step a wait is put in, on purpose. On a GPU torch itself raises at the first wait.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline import step as step_module
from pipeline import train as train_module
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.launch.preflight import prepare
from pipeline.optim.ema import WeightAverage
from pipeline.optim.masters import masters
from pipeline.run.beat import Heart
from pipeline.run.journal import Journal
from pipeline.run.stop_request import StopRequest
from pipeline.train import Trainer
from tests.sync.watch import Watch, on_device

UNWATCHED = 2
PLANTS = {
    "loss": (step_module, "mixed_losses", lambda losses, *_: losses.sum().item()),
    "result": (train_module, "train_step", lambda result, *_: result.loss_sum.tolist()),
    "journal": (Journal, "add", lambda _, journal, facts, result, holes: bool(result.grad_norm > 1)),
    "average": (WeightAverage, "update", lambda _, average: float(average._averages[0][0])),
}


def plant(name: str) -> Any:
    """Has a function of the step read a value from the device once it is done. Returns what takes it out again."""
    owner, function, wait = PLANTS[name]
    was = getattr(owner, function)

    def planted(*args: Any, **kwargs: Any) -> Any:
        result = was(*args, **kwargs)
        wait(result, *args)
        return result

    setattr(owner, function, planted)
    return lambda: setattr(owner, function, was)


def waits_on_gpu(step: Callable[[], None]) -> list[str]:
    """Raises where torch knows that it waits; returns the calls of what does nothing else, which it does not count."""
    found, synchronize = [], torch.cuda.synchronize
    torch.cuda.synchronize = lambda device=None: found.append("".join(traceback.format_stack(limit=3)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize = synchronize
    return found


def main(run_yaml: Path, out: Path, plants: dict[int, str]) -> None:
    environment = RankEnvironment(0, 1, 0)
    prepared = prepare(run_yaml, [], 1, False)
    trainer = Trainer(
        prepared, environment, os.environ[RENDEZVOUS], prepared.run.new_attempt(), StopRequest(Heart(0)), False
    )
    found: dict[int, list[str]] = {}
    step, take = trainer._step, trainer.agreement.take

    def taken(*args: Any) -> Any:
        result = take(*args)
        for batch in result.micro_batches:
            on_device(batch.tensors())
        return result

    def watched(index: int) -> None:
        if index < UNWATCHED:
            return step(index)
        remove = plant(plants[index + 1]) if index + 1 in plants else lambda: None
        if trainer.world.device.type == "cuda":
            found[index + 1] = waits_on_gpu(lambda: step(index))
        else:
            on_device(p.data for p in trainer.engine.module.parameters())
            for master in masters(trainer.engine):
                on_device([master.tensor, *(each for each in master.state.values() if isinstance(each, torch.Tensor))])
            with Watch() as watch:
                step(index)
            found[index + 1] = watch.waits
        remove()

    trainer._step, trainer.agreement.take = watched, taken  # type: ignore[method-assign]
    trainer.train()
    out.write_text(json.dumps(found))
    trainer.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(
        Path(sys.argv[1]), Path(sys.argv[2]), {int(s): name for s, _, name in (a.partition(":") for a in sys.argv[3:])}
    )
