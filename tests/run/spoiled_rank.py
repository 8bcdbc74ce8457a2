"""`vitstream` as one rank of a run, of which some batches are spoiled on the last rank, and all weights are hashed.

python -m tests.run.spoiled_rank OUT STEP:HOW... -- train RUN.yaml       as a rank: tests/ranks.py

HOW is nan (a pixel of the step's first image) or huge (a gradient whose norm is no float32). No image file has a NaN in
it, so this is done to the batch, where the loader gives it to the step: the product knows nothing of it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline import train
from pipeline.cli import main
from pipeline.data.batch import MicroBatch
from tests.parity.worker import weights_of

_step = train.train_step
_hashes: dict[int, str] = {}  # step -> of the weights after it


def _spoil(batch: MicroBatch, how: str) -> None:
    if how == "nan":
        batch.images = batch.images.float()
        batch.images[0, 3, 4] = torch.nan
    else:
        batch.weights = batch.weights * 1e38


def spoiled(out: Path, spoilt: dict[int, str], engine: Any, config: Any, world: Any, batches: Any, *rest: Any) -> Any:
    """In place of `train_step`."""
    step: int = rest[2]  # after rows and learning rate
    if step in spoilt and world.rank == world.size - 1:
        _spoil(batches[0], spoilt[step])
    result = _step(engine, config, world, batches, *rest)
    digest = xxhash.xxh3_64()
    for name, weight in sorted(weights_of(engine).items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    _hashes[step] = digest.hexdigest()
    (out / f"hashes-{world.rank}.json").write_text(json.dumps(_hashes))
    return result


if __name__ == "__main__":
    split = sys.argv.index("--")
    out, spoilt = Path(sys.argv[1]), {int(s): how for s, _, how in (a.partition(":") for a in sys.argv[2:split])}
    train.train_step = lambda *arguments: spoiled(out, spoilt, *arguments)
    sys.argv = ["vitstream", *sys.argv[split + 1 :]]
    main()
