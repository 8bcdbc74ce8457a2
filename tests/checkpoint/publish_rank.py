"""One rank that gives engines of every stage known fp32 weights, and looks at what their models then work with.

python -m tests.checkpoint.publish_rank FOLDER       as a rank: tests/ranks.py
"""

import os
import sys
from pathlib import Path

import torch

from pipeline.checkpoint.state import slices_to_restore, slices_to_save
from pipeline.config import load_config
from pipeline.distributed import World
from pipeline.engine import build_engine, build_model, import_deepspeed
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.optim.masters import publish
from tests.parity.worker import weights_of
from tests.runs import write_run

ENGINES = [
    ("zero0", "fp32"),
    *((f"zero{stage}", precision) for stage in (1, 2, 3) for precision in ("fp32", "bf16")),
    ("zero3_offload", "bf16"),
]


def main(folder: Path) -> None:
    import_deepspeed()
    world = World(RankEnvironment.read(), os.environ[RENDEZVOUS])
    rank, world_size = world.rank, world.size
    random = torch.Generator().manual_seed(3)
    for zero, precision in ENGINES:
        config = load_config(write_run(folder / f"{rank}.yaml", folder, zero=zero, precision=precision))
        model = build_model(config, classes=7)
        known = {name: torch.randn(p.shape, generator=random) for name, p in model.named_parameters()}
        engine = build_engine(config, model, world.device, 4, 1, world_size)
        for part in slices_to_restore(engine):
            part.tensors["weight"].copy_(known[part.name].view(-1)[part.start : part.stop])
        publish(engine)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for name, works_with in weights_of(engine).items():
            assert torch.equal(works_with, known[name].to(dtype).float()), (zero, precision, name)
        if rank == world_size - 1:  # alone: were there any communication, it would wait for the others
            for part in slices_to_save(engine, rank, world_size):
                assert torch.equal(part.tensors["weight"], known[part.name].view(-1)[part.start : part.stop])
        world.barrier()
    world.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
