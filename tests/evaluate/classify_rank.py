"""One rank of an evaluation: `python -m tests.evaluate.classify_rank CONFIG`, by tests/ranks.py; prints JSON."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pipeline.config import load_config
from pipeline.data.corpus import open_member
from pipeline.data.loader import Loader
from pipeline.data.recipe import Recipe
from pipeline.distributed import World
from pipeline.evaluate.classify import classify
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.models.vit import ViT, ViTConfig


def model_of(config_path: Path, classes: int) -> ViT:
    """A model with dropout that prefers classes at random but decidedly, and takes a hole for its label, 0."""
    config = load_config(config_path).model
    size = config.image_size
    model = ViT(ViTConfig(config.variant, size, classes, dropout=0.3)).initialise(3).eval()
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(4))
        model.head.bias -= model(torch.full((1, 3, size, size), -1.0))[0]
        model.head.bias[0] += 0.01
    return model


def main(config_path: str) -> None:
    torch.set_num_threads(1)
    config = load_config(Path(config_path))
    val = open_member(config.data.val, "data.val")
    world = World(RankEnvironment.read(), os.environ[RENDEZVOUS])
    model = model_of(Path(config_path), len(val.manifest.classes)).train()
    recipe = Recipe.of_evaluation(config, val, world.rank, world.size, world.local_size)
    batches = Loader(recipe, config.loader.workers, config.loader.prefetch, 1, world.device)
    found = classify(model, config, world, val.manifest, batches)
    batches.close()
    assert model.training  # as it was before
    print(json.dumps(asdict(replace(found, unread=()))))
    world.close()


if __name__ == "__main__":
    main(sys.argv[1])
