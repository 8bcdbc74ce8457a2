"""One rank of the parity test: ten steps of our engine, then its weights, their average and its losses as files.

python -m tests.parity.worker RUN.yaml OUT       as a rank: tests/ranks.py
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.config import Config, load_config
from pipeline.data.corpus import fit_order, open_corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.giving_up import never
from pipeline.data.ledger import READ
from pipeline.data.training import load_training
from pipeline.distributed import World
from pipeline.engine import build_engine, build_model, import_deepspeed
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.models.vit import ViT
from pipeline.optim.ema import WeightAverage
from pipeline.optim.schedule import learning_rate
from pipeline.step import train_step
from tests.models.hybrid import smooth


def starting_point(config: Config, classes: int) -> ViT:
    """A model away from its initialisation, whose zero head gives the first steps gradients of pure rounding noise."""
    model = build_model(config, classes)
    smooth(model)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    return model


def weights_of(engine: Any) -> dict[str, torch.Tensor]:
    """What the model works with, whole, as DeepSpeed itself gathers it. Every rank calls it."""
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(list(engine.module.parameters())):  # does nothing below stage 3
        return {name: p.detach().float().clone() for name, p in engine.module.named_parameters()}


def main(run_yaml: Path, out: Path) -> None:
    config = load_config(run_yaml)
    corpus = open_corpus(config.data.train)
    assert config.ema
    import_deepspeed()
    world = World(RankEnvironment.read(), os.environ[RENDEZVOUS])
    order = fit_order(corpus, config.batch_size, config.seed)
    total = config.total_samples(corpus.samples)
    feed = TrainFeed(order, config.batch_size, world.size, world.rank, config.micro_batch_size, 0, total)
    accumulation, micro_batch = feed.slots.shape
    model = starting_point(config, len(corpus.classes))
    engine = build_engine(config, model, world.device, micro_batch, accumulation, world.size)
    average = WeightAverage(engine, config.ema.decay)
    batches = load_training(config, corpus, feed, feed.steps, world, out, None, {}, never, lambda line: None)
    losses, norms, read = [], [], []
    for step in range(1, feed.steps + 1):
        lr = learning_rate(config.schedule, config.optimizer.lr, step, feed.steps)
        micro_batches = [next(batches) for _ in range(accumulation)]
        rows = world.total(sum(batch.rows for batch in micro_batches))
        result = train_step(engine, config, world, micro_batches, rows, lr, step)
        average.update()
        read.append(int(result.rows[:, READ].sum()))
        losses.append(float(world.all_reduce(result.loss_sum.clone())) / read[-1])
        norms.append(float(result.grad_norm))
    before = weights_of(engine)
    with average.in_use():
        averaged = weights_of(engine)
    after = weights_of(engine)
    if world.is_main:
        assert all(torch.equal(before[name], after[name]) for name in before)
        save_file(after, out / "weights.safetensors")
        save_file(averaged, out / "average.safetensors")
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        shape = {
            "graphs": graphs,
            "accumulation": accumulation,
            "micro_batch": micro_batch,
            "stage": engine.zero_optimization_stage(),
        }
        (out / "losses.json").write_text(json.dumps({"losses": losses, "norms": norms, "read": read} | shape))
    world.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
