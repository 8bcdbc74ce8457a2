"""What a step of ours takes beside the bare DeepSpeed step, a plain torch loop and Hugging Face's Trainer, on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--sizes tiny usual] [--rounds 400] [--folder /scratch]

One rank with gloo in one process per size, fp32, ViTs with the same weights at the start, AdamW (fused), clipping to
norm 1. Every step begins with a batch of pixels as they are decoded (uint8), so normalising them is everybody's.

    bare          the engine of pipeline/engine.py (ZeRO stage 1): forward, loss, backward, step; nothing else
    ours          `vitstream train` itself, from real shards: all that its loop does for a step, that is taking a batch
                  and agreeing on it, learning rate, the step, marks of the meter, the journal; and a share of a flush
                  (its files with fsync, the progress line) that comes every LOG_EVERY steps. The loader's worker makes
                  the batches before, and is stopped meanwhile: what it takes of the cores is not the step's (stream.py
                  measures it). What is waited for nevertheless is left out, by what metrics.jsonl says
    torch         forward, loss, backward, clipping, step
    hugging face  its Trainer, neither logging nor saving. Needs accelerate; is left out, and said to be, without

They take turns in the same process, a step each, in a new random order in every round, so that a busy moment hits all
of them. Prints a JSON line per contender, and a table: medians over the rounds with the quartiles. What is compared is
compared with the bare step of the same round; the first LOG_EVERY rounds do not count.

    ms, cpu_ms    of a step: by the wall clock; processor time of the process with all its threads
    over_us       processor time of a step more than the bare one's: what carries over to a GPU, where the device
                  is at work meanwhile
    flush_us      of ours, a step's share of the flush, which is in all of the above
"""

import argparse
import importlib.util
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from photos import CLASSES, write_photos
from torch import Tensor

from pipeline import train
from pipeline.config import Config
from pipeline.engine import build_engine, build_model, build_optimizer
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment
from pipeline.loss import normalise, sample_losses
from pipeline.rank import run_rank
from pipeline.run.metrics import read_steps

LOG_EVERY: Final = 20  # the default
PHOTOS: Final = 4000
SIZES: Final = {  # model, batch, and which part of the rounds is enough
    "tiny": ({"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 64, "heads": 2, "mlp_dim": 128}, 64, 1),
    "usual": ({"name": "vit-ti/16", "image_size": 224}, 2, 5),
}


@dataclass
class Spent:
    """What each step took."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    began: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        self.began = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        self.wall_s.append(time.perf_counter() - self.began[0])
        self.cpu_s.append(time.process_time() - self.began[1])


# -- contenders: each does a step when it is its turn, and notes what it took ------------------------------------


class Bare:
    """A DeepSpeed engine as ours."""

    def __init__(self, config: Config, images: Tensor, labels: Tensor) -> None:
        self.config, self.images, self.labels, self.spent = config, images, labels, Spent()
        self.engine = build_engine(config, build_model(config, CLASSES), images.device, len(images), 1, 1)

    def turn(self) -> None:
        self.spent.start()
        loss = loss_of(self.engine, self.images, self.labels)
        self.engine.backward(loss)
        self.engine.step()
        self.spent.stop()


class Torch:
    """The loop that everybody writes first."""

    def __init__(self, config: Config, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.spent = images, labels, Spent()
        self.model = build_model(config, CLASSES).train()
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.clip_norm = config.regularization.clip_norm

    def turn(self) -> None:
        self.spent.start()
        loss = loss_of(self.model, self.images, self.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.spent.stop()


class HuggingFace:
    """Its Trainer, in a thread that stands still at the end of each step, until it is its turn again."""

    def __init__(self, config: Config, images: Tensor, labels: Tensor) -> None:
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        spent, mine, done = self.spent, self.mine, self.done = Spent(), threading.Semaphore(0), threading.Semaphore(0)

        class TakesTurns(TrainerCallback):
            def on_step_end(self, arguments: Any, state: Any, control: Any, **others: Any) -> None:
                if state.global_step > 1:  # before the first, it begins
                    spent.stop()
                done.release()
                mine.acquire()
                spent.start()

        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # else it takes our process group for its own
            os.environ.pop(name, None)
        arguments = TrainingArguments(
            output_dir=str(config.run_dir / "hugging-face"),
            use_cpu=True,
            max_steps=10**9,
            per_device_train_batch_size=len(images),
            optim="adamw_torch_fused",
            learning_rate=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            max_grad_norm=config.regularization.clip_norm,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        self.trainer = Trainer(
            WithLoss(build_model(config, CLASSES)),
            arguments,
            data_collator=lambda numbers: {"images": images, "labels": labels},
            train_dataset=range(10**6),
            callbacks=[TakesTurns()],
        )
        self.trainer.remove_callback(PrinterCallback)
        threading.Thread(target=self.trainer.train, daemon=True).start()
        self.done.acquire()

    def turn(self) -> None:
        self.mine.release()
        self.done.acquire()


class WithLoss(torch.nn.Module):
    """A model as Hugging Face's Trainer wants it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": loss_of(self.model, images, labels)}


def loss_of(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """float32 [], from uint8 [B, S, S, 3] and int64 [B]."""
    return sample_losses(model(normalise(images, torch.float32)), labels, "softmax", 0.0).mean()


class Ours(train.Trainer):
    """The trainer. After each of its steps, the others have their turns, until it is its own again."""

    rounds = 0

    def _build(self, checkpoint: Any) -> None:
        super()._build(checkpoint)
        side, batch = self.config.model.image_size, self.config.batch_size
        random_numbers = torch.Generator().manual_seed(0)
        images = torch.randint(256, (batch, side, side, 3), generator=random_numbers, dtype=torch.uint8)
        labels = torch.randint(CLASSES, (batch,), generator=random_numbers)
        others = {"bare": Bare, "torch": Torch}
        if importlib.util.find_spec("accelerate"):
            others["hugging face"] = HuggingFace
        self.others = {name: make(self.config, images, labels) for name, make in others.items()}
        self.turns = in_turns(["ours", *others], self.rounds)
        self.spent, self.flushes = Spent(), Spent()

    def _loop(self) -> None:
        self._make_ahead()
        self._others_turns()
        super()._loop()
        self._signal_worker(signal.SIGCONT)

    def _flush(self) -> None:
        self.spent.stop()
        self.flushes.start()
        super()._flush()
        self.flushes.stop()

    def _conclude_step(self, evaluates: bool, saves: bool) -> None:
        super()._conclude_step(evaluates, saves)
        if self.progress.step % LOG_EVERY:
            self.spent.stop()
        else:
            self._make_ahead()
        self._others_turns()
        self.clock.start()

    def _others_turns(self) -> None:
        for name in self.turns:
            if name == "ours":
                break
            self.others[name].turn()
        self.spent.start()

    def _make_ahead(self) -> None:
        """Has the loader's worker fill the ring, and then stand still."""
        crew = self.loader._crew
        self._signal_worker(signal.SIGCONT)
        with socket.socket(fileno=os.dup(crew._children[0].connection.fileno())) as answers:
            missing = crew._allowed - self.loader._next - len(crew._answers[0])
            while missing and answers.recv(2**20, socket.MSG_PEEK).count(b'"item"') < missing:
                time.sleep(0.01)
        self._signal_worker(signal.SIGSTOP)

    def _signal_worker(self, number: int) -> None:
        os.kill(self.loader._crew._children[0].pid, number)

    def close(self) -> None:
        super().close()
        tell(self)


def in_turns(names: list[str], rounds: int) -> Iterator[str]:
    """All of them in every round, in a random order."""
    order = random.Random(0)
    for _ in range(rounds):
        yield from order.sample(names, len(names))


# -- what comes out --------------------------------------------------------------------------------------------


def tell(ours: Ours) -> None:
    """A JSON line for each, and the table."""
    steps, model = read_steps(ours.run.metrics), ours.config.model
    waited = [line["data_read_s"] + line["data_decode_s"] for _, line in sorted(steps.items())]
    flush_s, flush_cpu_s = (statistics.median(each) / LOG_EVERY for each in (ours.flushes.wall_s, ours.flushes.cpu_s))
    ours.spent.wall_s = [wall - wait + flush_s for wall, wait in zip(ours.spent.wall_s, waited, strict=True)]
    ours.spent.cpu_s = [cpu + flush_cpu_s for cpu in ours.spent.cpu_s]
    size = f"{model.name} at {model.image_size}, depth {model.variant.depth}, batch {ours.config.batch_size}"
    bare = ours.others["bare"].spent
    print(f"\n| {size} | ms | x bare | processor ms | x bare | µs over bare |\n|---|---|---|---|---|---|")
    lines = []
    for name, each in {"ours": ours.spent, **{name: other.spent for name, other in ours.others.items()}}.items():
        line: dict[str, Any] = {"size": size, "contender": name, "rounds": ours.rounds - LOG_EVERY}
        line["ms"] = summary([1e3 * s for s in each.wall_s])
        line["of_bare"] = summary([s / b for s, b in zip(each.wall_s, bare.wall_s, strict=True)])
        line["cpu_ms"] = summary([1e3 * s for s in each.cpu_s])
        line["cpu_of_bare"] = summary([s / b for s, b in zip(each.cpu_s, bare.cpu_s, strict=True)])
        line["over_us"] = summary([1e6 * (s - b) for s, b in zip(each.cpu_s, bare.cpu_s, strict=True)])
        if name == "ours":
            line |= {"flush_us": round(1e6 * flush_cpu_s), "flush_wall_us": round(1e6 * flush_s)}
        cells = [spread(line["ms"], 1), spread(line["of_bare"], 3), spread(line["cpu_ms"], 1)]
        cells += [spread(line["cpu_of_bare"], 3), spread(line["over_us"], 0)]
        print(f"| {name} | {' | '.join(cells)} |")
        lines.append(json.dumps(line))
    if "hugging face" not in ours.others:
        print("hugging face is left out: its Trainer needs accelerate (pip install accelerate)")
    print("", *lines, "", sep="\n", flush=True)


def summary(numbers: list[float]) -> list[float]:
    """Median and quartiles, without the first."""
    lower, median, upper = statistics.quantiles(numbers[LOG_EVERY:])
    return [round(n, 4) for n in (median, lower, upper)]


def spread(found: list[float], digits: int) -> str:
    median, lower, upper = (f"{n:,.{digits}f}" for n in found)
    return f"{median} ({lower} to {upper})"


# -- one size, in a process of its own -------------------------------------------------------------------------


def run_size(size: str, dataset: Path, rounds: int, folder: Path) -> None:
    """As `vitstream train` is one rank; its trainer is the one above."""
    model, batch, _ = SIZES[size]
    tree = {
        "run_dir": str(folder / size),
        "data": {"train": str(dataset)},
        "model": model,
        "batch_size": batch,
        "micro_batch_size": batch,
        "steps": rounds,
        "precision": "fp32",
        "checkpoint": {"every_steps": 10**9},
        "loader": {"workers": 1, "prefetch": LOG_EVERY},
        "log_every": LOG_EVERY,
    }
    (folder / f"{size}.yaml").write_text(yaml.safe_dump(tree))
    os.environ[RENDEZVOUS] = str(folder / f"{size}-rendezvous")
    train.Trainer, Ours.rounds = Ours, rounds  # type: ignore[misc]
    run_rank(RankEnvironment(0, 1, 0), folder / f"{size}.yaml", [], False, False)


def make_data(folder: Path) -> Path:
    """Photos, small enough that one worker is always ahead."""
    write_photos(folder / "source", "small", PHOTOS)
    command = [sys.executable, "-m", "pipeline.cli", "shard", str(folder / "source/photos")]
    command += ["--out", str(folder / "dataset"), "--size", "64"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "dataset"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=400, help="that are counted, at the usual size a fifth")
    parser.add_argument("--folder", type=Path, help="on the disk that the run's files are to be on")
    parser.add_argument("--child", nargs=2, metavar=("SIZE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        size, folder = options.child
        run_size(size, Path(folder) / "dataset", options.rounds + LOG_EVERY, Path(folder))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        make_data(Path(scratch))
        for size in options.sizes:
            rounds = max(1, options.rounds // SIZES[size][2] // LOG_EVERY) * LOG_EVERY
            command = [sys.executable, __file__, "--rounds", str(rounds), "--child", size, scratch]
            subprocess.run(command, check=True, env={"GLOO_SOCKET_IFNAME": "lo"} | os.environ)


if __name__ == "__main__":
    main()
