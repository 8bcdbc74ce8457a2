"""Saving and loading a training state, beside plain files of the same bytes and DeepSpeed's own checkpoints.

    python benchmarks/checkpoint.py [--models vit-b/16 vit-l/16] [--rounds 3] [--folder /scratch]

A real engine of one rank (ZeRO stage 1, fp32 weights and two moments, on the GPU where there is one), without data. In
every round, each after a `sync` and in a new folder:

    plain write    the same bytes, from memory, by writes of 4 MiB, and fsync
    synchronous    checkpoint.asynchronous: false, until the checkpoint is published
    asynchronous   what training waits for, and until it is published
    plain read     the files' bytes by reads of 4 MiB, and their SHA-256
    load           verify all bytes, then copy every value into the engine
    deepspeed      save_checkpoint and load_checkpoint of the same engine, which hash nothing and do not fsync

Reading is measured cold (the file's pages are dropped from memory first) and warm. Prints a JSON line per measurement,
and last, per model, the ratios' medians.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.checkpoint.files import TensorReader, bytes_of
from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.checkpoint.saver import Saver
from pipeline.checkpoint.state import Slice, slices_to_restore
from pipeline.config import Checkpoint, Config
from pipeline.distributed import World
from pipeline.engine import build_engine, build_model, import_deepspeed
from pipeline.launch.environment import RankEnvironment

BLOCK: Final = 4 * 2**20
PLAIN: Final = 256 * 2**20  # bytes of memory that a plain write goes through, again and again
CLASSES: Final = 1000


class Bench:
    """One model's engine, and what is measured of it."""

    def __init__(self, name: str, world: World, folder: Path) -> None:
        self.name, self.world, self.folder = name, world, folder
        tree = {"run_dir": folder, "data": {"train": folder}, "model": {"name": name}, "batch_size": 1, "steps": 1}
        self.config = Config.model_validate(tree | {"precision": "fp32", "zero": "zero1"})
        self.engine = build_engine(self.config, build_model(self.config, CLASSES), world.device, 1, 1, 1)
        self.slices: list[Slice] = slices_to_restore(self.engine)
        self.bytes = bytes_of(self.slices)
        self.plain = memoryview(torch.empty(PLAIN // 4).uniform_(-1, 1).numpy()).cast("B")  # as dense as weights are
        for part in self.slices:
            for values in part.tensors.values():
                values.uniform_(-1, 1)
        self.savers = {kind: self._saver(kind) for kind in ("synchronous", "asynchronous")}
        self.step = self.rounds = 0
        self.measured: dict[str, list[float]] = {}

    def _saver(self, kind: str) -> Saver:
        config = Checkpoint(asynchronous=kind == "asynchronous", keep_last=1)
        (self.folder / kind).mkdir(parents=True)
        return Saver(config, self.folder / kind / "checkpoints", 0, self.world, None, self.bytes, lambda line: None)

    def note(self, what: str, seconds: float) -> None:
        """Prints and keeps a measurement."""
        self.measured.setdefault(what, []).append(seconds)
        rate = round(self.bytes / seconds / 1e6) if seconds else None
        line = {"model": self.name, "bytes": self.bytes, "what": what, "seconds": round(seconds, 3), "mb_per_s": rate}
        print(json.dumps(line), flush=True)

    def round(self) -> None:
        """Everything once. Who writes first changes: a virtual disk may be fast for some gigabytes, then slow."""
        writers = [self.write_plainly, self.save_synchronously, self.save_asynchronously]
        first = self.rounds % len(writers)
        for write in writers[first:] + writers[:first]:
            write()
        self.rounds += 1
        files = sorted((self.folder / "asynchronous" / "checkpoints").glob("step-*/*.safetensors"))
        for state in ("cold", "warm"):
            self.note(f"plain read, {state}", timed(lambda: plain_read(files), cold=files if state == "cold" else ()))
            self.note(f"load, {state}", timed(self.load, cold=files if state == "cold" else ()))
        self.deepspeed()

    def touch(self) -> None:
        """All of the state, as the optimizer's step before a save does: memory that lay idle is slow at first."""
        for part in self.slices:
            for values in part.tensors.values():
                values.mul_(1.0)

    def write_plainly(self) -> None:
        self.note("plain write", timed(self.plain_write))

    def save_synchronously(self) -> None:
        os.sync()
        self.touch()
        self.note("synchronous", timed(lambda: self.save("synchronous"), settled=True))

    def save_asynchronously(self) -> None:
        os.sync()
        self.touch()
        began = time.perf_counter()
        self.save("asynchronous", wait=False)
        blocked = time.perf_counter() - began
        failure = self.savers["asynchronous"].wait()
        assert failure is None, failure
        self.note("blocked", blocked)
        self.note("asynchronous", time.perf_counter() - began)

    def plain_write(self) -> None:
        """The bytes, and nothing else."""
        with (self.folder / "plain").open("wb", buffering=0) as file:
            for at in range(0, self.bytes, BLOCK):
                file.write(self.plain[at % PLAIN :][: min(BLOCK, self.bytes - at)])
            os.fsync(file.fileno())
        (self.folder / "plain").unlink()

    def save(self, kind: str, wait: bool = True) -> None:
        """By the saver that training has."""
        self.step += 1
        zeros = {"optimizer_step": 1, "consumed": 1, "world_size": 1, "zero_stage": 1, "precision": "fp32"}
        data = {"fingerprint": "", "order": {}, "ledger": {}}
        facts = {"step": self.step, "config": {"batch_size": 1}, "config_hash": "", "data": data} | zeros
        self.savers[kind].save(self.slices, facts, lambda: None)
        if wait:
            failure = self.savers[kind].wait()
            assert failure is None, failure

    def load(self) -> None:
        """As a start does, from choosing to the engine's memory."""
        chosen = choose_checkpoint(self.folder / "asynchronous" / "checkpoints", 1, self.world, print)
        assert chosen is not None
        TensorReader(*chosen).restore(self.slices)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def deepspeed(self) -> None:
        """Its own, by its own means."""
        folder = self.folder / "deepspeed"
        self.note("deepspeed save", timed(lambda: self.engine.save_checkpoint(str(folder), tag="one")))
        self.note("deepspeed save and sync", self.measured["deepspeed save"][-1] + timed(os.sync, settled=True))
        self.note("deepspeed load, warm", timed(lambda: self.engine.load_checkpoint(str(folder), tag="one")))
        self.slices = slices_to_restore(self.engine)  # it may have replaced the moments
        shutil.rmtree(folder)

    def ratios(self) -> dict[str, float]:
        """Medians over the rounds, each of a round's own two measurements."""

        def ratio(a: str, b: str) -> float:
            pairs = zip(self.measured[a], self.measured[b], strict=True)
            return round(statistics.median(x / y for x, y in pairs), 3)

        return {
            "blocked / synchronous": ratio("blocked", "synchronous"),
            "synchronous / plain write": ratio("synchronous", "plain write"),
            "asynchronous / plain write": ratio("asynchronous", "plain write"),
            "load / plain read, cold": ratio("load, cold", "plain read, cold"),
            "load / plain read, warm": ratio("load, warm", "plain read, warm"),
            "asynchronous / deepspeed save and sync": ratio("asynchronous", "deepspeed save and sync"),
            "load, warm / deepspeed load, warm": ratio("load, warm", "deepspeed load, warm"),
        }


def timed(work: Callable[[], Any], cold: Iterable[Path] = (), settled: bool = False) -> float:
    """Seconds, once the disk has nothing left to do; `settled`: that has been seen to, or is what is measured."""
    if not settled:
        os.sync()
    for path in cold:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def plain_read(paths: list[Path]) -> None:
    """All bytes and their SHA-256, by one thread."""
    digest, buffer = hashlib.sha256(), bytearray(BLOCK)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])


@contextmanager
def world_of_one(folder: Path) -> Iterator[World]:
    """As one rank joins."""
    import_deepspeed()
    world = World(RankEnvironment(0, 1, 0), str(folder / "rendezvous"))
    try:
        yield world
    finally:
        world.close()


def main() -> None:
    """Every model in turn; what was written is removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit-b/16", "vit-l/16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured, with room for three states")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=options.folder))
    try:
        with world_of_one(root) as world:
            for name in options.models:
                folder = root / name.replace("/", "-")
                bench = Bench(name, world, folder)
                for _ in range(options.rounds):
                    bench.round()
                print(json.dumps({"model": name, "ratios": bench.ratios()}), flush=True)
                shutil.rmtree(folder)
                del bench
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
