"""One rank of another trainer: plain DeepSpeed, its own AdamW and loss, its own save_checkpoint; nothing of our engine.

python -m tests.checkpoint.native_rank RUN.yaml OUT MODEL ZERO.json      as a rank: tests/ranks.py

MODEL is `ours`, or `transformers` for its ViT with the same weights. It reads the batches of RUN.yaml, saves into
OUT/native after the first epoch, with the fp32 weights as DeepSpeed itself gathers them in OUT/weights.safetensors,
goes on, and leaves the losses of all steps in OUT/losses.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import Config, load_config
from pipeline.data.corpus import fit_order, open_corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.loader import Loader
from pipeline.data.recipe import Recipe
from pipeline.distributed import World
from pipeline.engine import import_deepspeed
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.models.huggingface import to_huggingface
from pipeline.models.vit import ViT
from pipeline.optim.schedule import learning_rate
from tests.parity.worker import starting_point


class Theirs(nn.Module):
    """transformers' ViT, which gives logits by name; wrapped, as trainers do, so that names have a prefix."""

    def __init__(self, config: Config, classes: int, ours: ViT) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        v = config.model.variant
        self.model = ViTForImageClassification(
            ViTConfig(
                hidden_size=v.width,
                num_hidden_layers=v.depth,
                num_attention_heads=v.heads,
                intermediate_size=v.mlp_dim,
                image_size=config.model.image_size,
                patch_size=v.patch,
                num_labels=classes,
                layer_norm_eps=1e-6,
            )
        )
        self.model.load_state_dict(to_huggingface(ours.state_dict(), self.model.state_dict()))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def groups_of(model: nn.Module, decay: float) -> list[dict]:
    """Kernels decay."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_kernel = parameter.ndim >= 2 and "cls_token" not in name and "pos" not in name
        (decayed if is_kernel else plain).append(parameter)
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def main(run_yaml: Path, out: Path, kind: str, zero: Path) -> None:
    config = load_config(run_yaml)
    corpus = open_corpus(config.data.train)
    deepspeed = import_deepspeed()
    from deepspeed.utils import safe_get_full_fp32_param

    world = World(RankEnvironment.read(), os.environ[RENDEZVOUS])
    order = fit_order(corpus, config.batch_size, config.seed)
    total = config.total_samples(corpus.samples)
    feed = TrainFeed(order, config.batch_size, world.size, world.rank, config.micro_batch_size, 0, total)
    ours = starting_point(config, len(corpus.classes))
    model = ours if kind == "ours" else Theirs(config, len(corpus.classes), ours)
    optimizer = torch.optim.AdamW(groups_of(model, config.optimizer.weight_decay), lr=config.optimizer.lr)
    accumulation, micro_batch = feed.slots.shape
    body = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": config.batch_size,
        "gradient_clipping": config.regularization.clip_norm,
        "zero_optimization": json.loads(zero.read_text()),
        "zero_allow_untested_optimizer": True,
    }
    dtype = torch.float32
    if config.precision == "bf16":
        dtype = torch.bfloat16
        body |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=body, dist_init_required=False)
    recipe = Recipe.of_training(config, corpus, feed, world.local_size, known_holes={})
    batches = Loader(recipe, config.loader.workers, config.loader.prefetch, accumulation, world.device)
    losses = []
    for step in range(1, feed.steps + 1):
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(config.schedule, config.optimizer.lr, step, feed.steps)
        loss_sum = torch.zeros(())
        for _ in range(accumulation):
            batch = next(batches)
            images = (batch.images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(dtype)
            loss = F.cross_entropy(engine(images).float(), batch.labels)
            engine.backward(loss)
            engine.step()
            loss_sum += loss.detach() / accumulation
        losses.append(float(world.all_reduce(loss_sum)) / world.size)
        if step * config.batch_size == corpus.samples:
            engine.save_checkpoint(str(out / "native"), client_state={"seen": step * config.batch_size})
            gathered = {name: safe_get_full_fp32_param(p) for name, p in model.named_parameters()}
            if world.is_main:
                save_file({name: whole.clone() for name, whole in gathered.items()}, out / "weights.safetensors")
    if world.is_main:
        (out / "losses.json").write_text(json.dumps(losses))
    world.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
