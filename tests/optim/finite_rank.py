"""One rank of the test of steps that are not finite: steps of our engine, some of which are spoilt on one rank.

python -m tests.optim.finite_rank RUN.yaml OUT SPOILT...       as a rank: tests/ranks.py

A SPOILT is STEP:HOW, with HOW one of nan (pixels of one image, on the last rank) and huge (a gradient whose norm is no
float32), or STEP:skip: the reference, in which that step is not done at all.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.checkpoint.state import slices_to_save
from pipeline.config import load_config
from pipeline.data.batch import MicroBatch, StageTimes
from pipeline.data.ledger import READ, ROW
from pipeline.distributed import World
from pipeline.engine import build_engine, import_deepspeed
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.optim.masters import optimizer_step
from pipeline.step import train_step
from tests.parity.worker import starting_point

STEPS, MICRO, ACCUMULATION, CLASSES = 6, 2, 2, 5


def micro_batch(step: int, micro: int, rank: int, spoilt: str | None, last: bool) -> MicroBatch:
    random = torch.Generator().manual_seed(1000 * step + 10 * micro + rank)
    images = torch.randint(0, 256, (MICRO, 32, 32, 3), generator=random, dtype=torch.uint8).float()
    labels = torch.randint(0, CLASSES, (MICRO,), generator=random)
    weights = torch.ones(MICRO)
    if spoilt == "nan" and last:
        images[0, 3, 4] = torch.nan
    if spoilt == "huge" and last:
        weights = weights * 1e38
    return MicroBatch(images, labels, weights, torch.zeros(1, ROW, dtype=torch.int64), [], StageTimes())


def main(run_yaml: Path, out: Path, spoilt: dict[int, str]) -> None:
    config = load_config(run_yaml)
    import_deepspeed()
    world = World(RankEnvironment.read(), os.environ[RENDEZVOUS])
    model = starting_point(config, CLASSES)
    engine = build_engine(config, model, world.device, MICRO, ACCUMULATION, world.size)
    rows = torch.zeros(1, ROW, dtype=torch.int64)
    rows[0, READ] = MICRO * ACCUMULATION * world.size
    norms = []
    for step in range(1, STEPS + 1):
        how, last = spoilt.get(step), world.rank == world.size - 1
        if how == "skip":
            continue
        batches = [micro_batch(step, micro, world.rank, how, last and micro == 1) for micro in range(ACCUMULATION)]
        norms.append(float(train_step(engine, config, world, batches, rows, 1e-3, step).grad_norm))
    tensors = {
        f"{kind}/{part.name}/{part.start}": values.clone()
        for part in slices_to_save(engine, world.rank, world.size)
        for kind, values in part.tensors.items()
    }
    working = {f"working/{name}": p.detach().clone() for name, p in engine.module.named_parameters() if p.numel()}
    save_file(tensors | working, out / f"rank-{world.rank}.safetensors")
    (out / f"rank-{world.rank}.json").write_text(json.dumps({"norms": norms, "steps": optimizer_step(engine)}))
    world.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), {int(s): how for s, _, how in (a.partition(":") for a in sys.argv[3:])})
