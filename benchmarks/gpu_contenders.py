"""A case of gpu.py on one GPU of so many: python gpu_contenders.py '{"case": ..., "model": ..., "micro_batch": ...}'

Prints one JSON line (rank 0). Exit code 17: out of memory.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu import CLASSES, OUT_OF_MEMORY, WARM_UP, run_config

from pipeline.config import Config
from pipeline.launch.gpus import device_peak
from pipeline.models.architecture import train_flops, vit_config

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if ON_GPU else torch.device("cpu")
if ON_GPU:
    torch.cuda.set_device(DEVICE)


def seconds_of(step: Callable[[], object], at_least: float) -> float:
    """Of one step, a mean after warm-up; the device is waited for at both ends only."""

    def run(count: int) -> float:
        wait()
        began = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return time.perf_counter() - began

    run(WARM_UP)
    count = max(3, int(at_least / (run(3) / 3)))
    if RANKS > 1:  # all take as many
        agreed = torch.tensor([count], device=DEVICE)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        count = int(agreed)
    return run(count) / count


def wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def ours(run: dict[str, Any], config: Config) -> float:
    """Seconds of our step, DeepSpeed's engine under it, on a batch that lies on the device."""
    from pipeline.data.batch import MicroBatch, StageTimes
    from pipeline.data.ledger import READ, ROW
    from pipeline.distributed import World
    from pipeline.engine import build_engine, import_deepspeed
    from pipeline.launch.environment import RankEnvironment
    from pipeline.models.vit import ViT
    from pipeline.step import train_step

    import_deepspeed()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    world = World(RankEnvironment(RANK, RANKS, int(os.environ.get("LOCAL_RANK", "0"))))
    count, size = run["micro_batch"], config.model.image_size
    with DEVICE:  # initialised there, which is faster; how it begins does not matter here
        model = ViT(vit_config(config, CLASSES))
    engine = build_engine(config, model, world.device, count, 1, world.size)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=DEVICE)
    labels, weights = torch.randint(0, CLASSES, (count,), device=DEVICE), torch.ones(count, device=DEVICE)
    rows = torch.zeros(1, ROW, dtype=torch.int64)
    rows[0, READ] = count * RANKS
    batch = MicroBatch(images, labels, weights, rows, [], StageTimes())
    return seconds_of(lambda: train_step(engine, config, world, [batch], rows, 1e-5, 1), run["seconds"])


def transformers_vit(config: Config) -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    variant = config.model.variant
    assert variant.resnet is None, f"transformers has no {config.model.name} to compare with"
    theirs = ViTConfig(
        hidden_size=variant.width,
        num_hidden_layers=variant.depth,
        num_attention_heads=variant.heads,
        intermediate_size=variant.mlp_dim,
        patch_size=variant.patch,
        image_size=config.model.image_size,
        num_labels=CLASSES,
    )
    with DEVICE:
        return ViTForImageClassification(theirs)


def hand_written(run: dict[str, Any], config: Config) -> float:
    """What one writes in an afternoon."""
    model = transformers_vit(config).train()
    if RANKS > 1:
        dist.init_process_group("nccl" if ON_GPU else "gloo")
        model = torch.nn.parallel.DistributedDataParallel(model)
    compiled = model if run["small"] else torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    size = config.model.image_size
    images = torch.randn(run["micro_batch"], 3, size, size, device=DEVICE)
    labels = torch.randint(0, CLASSES, (run["micro_batch"],), device=DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(images).logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return seconds_of(step, run["seconds"])


class Images(torch.utils.data.Dataset):
    """A million of them, all the same, made already: nothing is read."""

    def __init__(self, size: int) -> None:
        self.pixels = torch.randn(3, size, size)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels, "labels": number % CLASSES}


def trainer(run: dict[str, Any], config: Config) -> float:
    """transformers' Trainer, with what its documentation recommends for speed."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Times(TrainerCallback):
        def __init__(self) -> None:
            self.steps, self.began, self.seconds = 0, 0.0, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.steps += 1
            if self.steps == WARM_UP:
                wait()
                self.began = time.perf_counter()
            elif self.steps > WARM_UP + 2 and self.steps % 3 == 0:
                wait()
                self.seconds = (time.perf_counter() - self.began) / (self.steps - WARM_UP)
                control.should_training_stop = time.perf_counter() - self.began > run["seconds"]

    times = Times()
    arguments = TrainingArguments(
        output_dir=str(Path(os.environ.get("TMPDIR", "/tmp")) / "vitstream-trainer"),
        per_device_train_batch_size=run["micro_batch"],
        max_steps=100_000,
        bf16=True,
        torch_compile=run["case"] == "trainer" and not run["small"],
        optim="adamw_torch_fused",
        dataloader_num_workers=min(8, max(1, (os.cpu_count() or 2) // 2)),
        dataloader_pin_memory=ON_GPU,
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not ON_GPU,
    )
    data = Images(config.model.image_size)
    Trainer(model=transformers_vit(config), args=arguments, train_dataset=data, callbacks=[times]).train()
    return times.seconds


def main() -> None:
    run = json.loads(sys.argv[1])
    config = Config.model_validate(run_config(run, {"train": "none"}, "none", run["micro_batch"] * RANKS))
    case = {"torch": hand_written, "trainer": trainer, "trainer-eager": trainer}.get(run["case"], ours)
    if case is not ours:  # transformers' ViT has a class token
        model = config.model.model_copy(update={"pooling": "cls"})
        config = config.model_copy(update={"model": model})
    try:
        seconds = case(run, config)
    except torch.OutOfMemoryError:
        os._exit(OUT_OF_MEMORY)
    rate = run["micro_batch"] * RANKS / seconds
    peak, flops = device_peak(torch.cuda.get_device_name()) if ON_GPU else None, train_flops(config, CLASSES)
    memory = torch.cuda.max_memory_allocated() if ON_GPU else 0
    if RANK == 0:
        mfu = round(rate * flops / (peak * RANKS), 4) if peak and flops else None
        print(json.dumps({"images_per_s": round(rate, 1), "mfu": mfu, "memory_gb": round(memory / 1e9, 1)}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # process groups and workers have nothing left to say


if __name__ == "__main__":
    main()
