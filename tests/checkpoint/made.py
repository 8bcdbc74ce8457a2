"""A run's checkpoint without a run: real files of a small ViT with weights of which none is like another."""

from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint.files import write_slices
from pipeline.checkpoint.manifest import CheckpointManifest, step_name
from pipeline.checkpoint.state import WEIGHT, Slice
from pipeline.config import Config
from pipeline.models.architecture import vit_config
from pipeline.models.vit import ViT
from pipeline.optim.masters import MOMENTS

KINDS = (WEIGHT, *MOMENTS)
CLASSES = ["ant", "bee", "cat", "dog", "elk"]


def small_config(run_dir: Path, **model: Any) -> Config:
    tree = {
        "run_dir": str(run_dir),
        "data": {"train": "s3://user:secret@bucket/data?signature=abc"},
        "model": {"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 48, "heads": 4, "mlp_dim": 96} | model,
        "batch_size": 32,
        "epochs": 3,
        "precision": "fp32",
    }
    return Config.model_validate(tree)


def scrambled(config: Config, classes: int = len(CLASSES), seed: int = 1) -> ViT:
    """No weight is zero, one or like another: a swapped or forgotten tensor shows."""
    model = ViT(vit_config(config, classes)).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2, generator=random)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model


def make_checkpoint(config: Config, /, model: ViT, step: int, kinds: tuple[str, ...] = KINDS, **facts: Any) -> Path:
    """RUN/checkpoints/step-N of these weights; other kinds are the weights times 2, 3, ... Returns its folder."""
    path = config.run_dir / "checkpoints" / step_name(step)
    path.mkdir(parents=True)
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    slices = [
        Slice(name, tuple(p.shape), 0, p.numel(), {kind: p.flatten() * n for n, kind in enumerate(kinds, start=1)})
        for name, p in named.items()
    ]
    entry, pieces = write_slices(path / "rank-00000.safetensors", slices)
    body = {
        "step": step,
        "optimizer_step": step,
        "consumed": step * config.batch_size,
        "world_size": 1,
        "zero_stage": 1,
        "precision": "fp32",
        "config": config.to_json(exclude={"run_dir"}),
        "config_hash": config.hash,
        "parent": None,
        "data": {"fingerprint": "f" * 64, "order": {}, "ledger": {}},
        "files": [entry],
        "shapes": {name: list(p.shape) for name, p in named.items()},
        "tensors": pieces,
        "classes": CLASSES,
        "code": {"version": "0.1.0", "git_commit": "c0ffee"},
        "losses": [2.5, 2.25],
    }
    CheckpointManifest(**(body | facts)).write(path)
    return path
