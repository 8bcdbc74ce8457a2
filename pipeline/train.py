"""The training story, top to bottom: join, choose a checkpoint, build, then steps, evaluations and saves.

All state that a resume needs is `Progress` and the engine's tensors. Everything else is a pure function of them.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.checkpoint import commit
from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.load import load
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.checkpoint.state import slices_to_save
from pipeline.data.corpus import fit_order, order_from_json
from pipeline.data.feed import TrainFeed
from pipeline.data.ledger import Ledger
from pipeline.data.loader import Loader
from pipeline.data.mosaic.loader import MosaicLoader
from pipeline.data.mosaic.order import LIMITS, MosaicFeed, MosaicOrder
from pipeline.data.order import SampleOrder
from pipeline.data.recipe import Recipe
from pipeline.data.stretches import Stretches, begun, resumed
from pipeline.dataset.errors import StoppedResumable, WorkFailed
from pipeline.dataset.files import atomic_file
from pipeline.dataset.remote.traffic import Fetched
from pipeline.distributed import Vote, World
from pipeline.engine import build_engine, build_model, engine_notes, import_deepspeed
from pipeline.evaluate.classify import classify
from pipeline.launch.environment import RankEnvironment
from pipeline.launch.preflight import Prepared
from pipeline.models.flops import device_peak, train_flops
from pipeline.optim.ema import AVERAGE, WeightAverage
from pipeline.optim.masters import optimizer_step
from pipeline.optim.schedule import learning_rate
from pipeline.run.console import Console, eta
from pipeline.run.environment import environment_facts
from pipeline.run.holes import Holes, known_holes, to_repeat
from pipeline.run.journal import Journal, StepFacts
from pipeline.run.starvation import mean_could_feed, split
from pipeline.step import train_step

if TYPE_CHECKING:
    from pipeline.rank import StopRequest


@dataclass
class Progress:
    """Where a run is."""

    step: int  # optimizer steps done
    consumed: int  # samples used
    order: SampleOrder | MosaicOrder
    ledger: Ledger
    stretches: Stretches  # of equal batch sizes, so far


class Trainer:
    """One rank of one attempt."""

    def __init__(
        self,
        prepared: Prepared,
        environment: RankEnvironment,
        rendezvous: str | None,
        attempt: int | None,
        stop: "StopRequest",
        from_scratch: bool,
    ) -> None:
        self.config, self.run, self.prepared = prepared.config, prepared.run, prepared
        self.stop = stop
        self.phase = "setup"
        import_deepspeed()
        self.world = World(environment, rendezvous)
        self.attempt: int = self.world.broadcast(attempt)
        self.console = Console(self.world.is_main, self.run.attempt(self.attempt) / "rank-0.log")
        self.from_scratch = from_scratch
        self.progress = Progress(0, 0, self._order(), Ledger(), begun(self.config.batch_size))
        self.loader: Loader | MosaicLoader | None = None
        self.saved_step: int | None = None
        self.parent: str | None = None

    def train(self) -> None:
        """Runs to the end. Raises StoppedResumable, UsageError or WorkFailed, on all ranks alike."""
        if self.from_scratch and self.world.is_main:
            self.run.set_aside(self.attempt)
        checkpoint = choose_checkpoint(self.run.checkpoints, self.attempt, self.world, self.console.say)
        if checkpoint:
            self.progress = self._progress_from(checkpoint[1])
            self.saved_step, self.parent = self.progress.step, checkpoint[0].name
        progress = self.progress
        progress.stretches = resumed(progress.stretches, progress.step, progress.consumed, self.config.batch_size)
        self.feed = self._feed()
        self.total_steps = self.progress.step + self.feed.steps
        if self.feed.steps <= 0:
            self.console.say(f"finished: all {self.progress.step:,} steps are done, and the checkpoint verifies")
            return
        self._introduce()
        self._build(checkpoint)
        self._loop()
        self._save_if_new(required=True)
        self.console.say(f"finished: {self.progress.step:,} steps, {self.progress.consumed:,} samples")

    # -- setting up --------------------------------------------------------------------------------------------

    def _order(self, kept: dict[str, Any] | None = None, consumed: int = 0) -> SampleOrder | MosaicOrder:
        """The order of a run that starts, or, with what a checkpoint kept of it, goes on."""
        config, corpus, world = self.config, self.prepared.train, self.world
        if config.loader.name == "mosaic":
            nodes = world.size // world.local_size
            return MosaicOrder.of(corpus.samples, config.seed, nodes, world.size, kept, consumed)
        return order_from_json(kept) if kept else fit_order(corpus, config.batch_size, config.seed)

    def _progress_from(self, manifest: CheckpointManifest) -> Progress:
        order = self._order(manifest.data["order"], manifest.consumed)
        ledger = Ledger.from_json(manifest.data["ledger"])
        return Progress(manifest.step, manifest.consumed, order, ledger, manifest.stretches)

    def _feed(self) -> TrainFeed | MosaicFeed:
        config, progress, world = self.config, self.progress, self.world
        size, limit, consumed = config.batch_size, config.micro_batch_size, progress.consumed
        if isinstance(progress.order, MosaicOrder):
            to_come = (config.steps or 0) - progress.step
            return MosaicFeed(progress.order, size, world.rank, limit, consumed, config.epochs, to_come)
        total = config.total_samples(self.prepared.train.samples, progress.step, consumed)
        return TrainFeed(
            progress.order, size, world.size, world.rank, limit, consumed, total, mixes=config.augment.mixes
        )

    def _introduce(self) -> None:
        """Says what starts, and writes config.yaml and env.json."""
        config, train, world = self.config, self.prepared.train, self.world
        if not world.is_main:
            return
        if self.parent is None:  # the run begins here, whatever was tried before
            with atomic_file(self.run.config) as file:
                file.write(config.to_yaml().encode())
        self.run.write_environment(environment_facts(str(world.device)))
        start = f"step {self.progress.step:,}" if self.parent is None else f"{self.parent}, which verifies"
        self.console.say(f"attempt {self.attempt}, from {start}: {self.run.path}")
        for line in self.prepared.changed:
            self.console.say(f"changed since that checkpoint: {line}")
        if config.loader.name == "mosaic":
            self.console.say(LIMITS)
        for line in self.prepared.notes:
            self.console.say(line)
        accumulation, micro_batch = self.feed.accumulation, self.feed.batch
        ranks = "rank" if world.size == 1 else "ranks"
        for line in engine_notes(config, accumulation):
            self.console.say(line)
        self.console.say(
            f"{config.model.name} at {config.model.image_size} px, {config.precision}, {config.zero}; batch "
            f"{config.batch_size} over {world.size} {ranks}, {accumulation} x {micro_batch} each; "
            f"{train.samples:,} samples in {len(train.classes)} classes, {self.total_steps:,} steps"
        )

    def _build(self, checkpoint: tuple[Path, CheckpointManifest] | None) -> None:
        """Model, engine, restored state, loader, journal."""
        config, world, corpus = self.config, self.world, self.prepared.train
        data = checkpoint[1].data if checkpoint else {}
        known = self._known_holes(data.get("holes", {}))
        # First: it reads its first batches while the model is built.
        if isinstance(self.feed, MosaicFeed):
            kept = data.get("order")
            self.loader = MosaicLoader(config, corpus.members[0], self.feed, world, self.run.path, kept, known)
        else:
            recipe = Recipe.of_training(config, corpus, self.feed, world.local_size, known)
            self.loader = self._load(recipe, in_use=self.feed.accumulation)
        model = build_model(config, len(corpus.classes))
        accumulation, micro_batch = self.feed.accumulation, self.feed.batch
        self.engine = build_engine(config, model, world.device, micro_batch, accumulation, world.size)
        self.average = WeightAverage(self.engine, config.ema.decay) if config.ema else None
        lacking = load(self.engine, TensorReader(*checkpoint), checkpoint[1]) if checkpoint else set()
        if self.average and AVERAGE in lacking:
            self.average.begin()
            self.console.say("ema: that checkpoint has no average: it begins as the weights are there")
        flops = train_flops(config.model.variant, config.model.image_size, config.model.pooling, len(corpus.classes))
        peak = device_peak(torch.cuda.get_device_name()) if world.device.type == "cuda" else None
        self.journal = Journal(
            config=config,
            run=self.run,
            world=world,
            corpus=corpus,
            order=self.progress.order,
            ledger=self.progress.ledger,
            holes=self.holes,
            attempt=self.attempt,
            mfu_of=lambda rate: round(rate * flops / (peak * world.size), 4) if peak else None,
            say=self.console.say,
        )

    def _known_holes(self, in_checkpoint: dict[str, dict[str, list[int]]]) -> dict[tuple[int, int], str]:
        """(epoch, sample id) -> cause: what the steps that are done again have to leave out again."""
        order, consumed, found = self.progress.order, self.progress.consumed, []
        if self.world.is_main:
            found = known_holes(order, self.prepared.train.fingerprint, consumed, in_checkpoint, self.run.holes)
        self.holes = Holes.of(self.run.holes, self.world.broadcast(found))
        repeated = to_repeat(order, consumed, self.holes.known)
        if repeated:
            self.console.say(f"{len(repeated):,} samples of steps that are done again were holes there, and are again")
        return repeated

    def _load(self, recipe: Recipe, in_use: int) -> Loader:
        loader = self.config.loader
        return Loader(recipe, loader.workers, loader.prefetch, in_use, self.world.device)

    # -- steps -------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        config = self.config
        vote: Vote | None = None
        started = time.perf_counter()
        for index in range(self.feed.steps):
            self.phase = "step"
            started = self._step(index, started)
            step = self.progress.step
            last = step == self.total_steps
            evaluates = self.prepared.val is not None and (step % config.evaluate.every_steps == 0 or last)
            saves = step % config.checkpoint.every_steps == 0
            stops = vote is not None and vote.result()
            if step % config.log_every == 0 or evaluates or saves or stops or last:
                self._flush()
            unreadable = self.journal.too_many_holes()
            if evaluates:
                unreadable = self._evaluate() or unreadable
            if saves or stops or unreadable:
                self._save_if_new(required=stops or unreadable is not None)
            if unreadable:
                raise WorkFailed(unreadable, cause="data")
            if stops and not last:
                raise StoppedResumable(
                    f"stopped on {self._signal()} after step {step:,}, everything saved; the same command resumes"
                )
            vote = self.world.vote(self.stop.signal is not None)
            if evaluates or saves:
                started = time.perf_counter()

    def _step(self, index: int, started: float) -> float:
        """One optimizer step. Returns when it ended, which is when the next began."""
        assert self.loader is not None
        micro_batches, waits_s = [], []
        for _ in range(self.feed.accumulation):
            waiting = time.perf_counter()
            micro_batches.append(next(self.loader))
            waits_s.append(time.perf_counter() - waiting)
        step = self.progress.step + 1
        lr = learning_rate(self.config.schedule, self.config.optimizer.lr, step, self.total_steps)
        result = train_step(self.engine, self.config, self.world, micro_batches, lr, step)
        if self.average:
            self.average.update()
        ended = time.perf_counter()
        waits = split(waits_s, [batch.times for batch in micro_batches])
        fetched = Fetched.total(batch.fetched for batch in micro_batches)
        facts = StepFacts(step, self.progress.consumed, self.feed.count(index), lr, ended - started, waits, fetched)
        holes = [hole for batch in micro_batches for hole in batch.holes]
        self.journal.add(facts, result, holes)
        self.progress.step = step
        self.progress.consumed += facts.count
        return ended

    def _flush(self) -> None:
        """Writes the pending steps and shows the last; rates are means over all of them."""
        lines = self.journal.flush()
        if not lines:
            return
        line, step_s = lines[-1], sum(each["step_s"] for each in lines)
        rate = sum(each["images_per_s"] * each["step_s"] for each in lines) / step_s
        wait = sum(each["data_wait_s"] for each in lines) / step_s
        feeds = mean_could_feed(lines)
        could = f" (could feed {feeds:,.0f})" if feeds else ""
        left = eta((self.total_steps - line["step"]) * step_s / len(lines))
        mfu = f", MFU {line['mfu']:.1%}" if line["mfu"] is not None else ""
        self.console.progress(
            f"step {line['step']:,}/{self.total_steps:,}, {left} left  epoch {line['epoch']}  "
            f"loss {line['loss']:.4f}  {rate:,.0f} images/s{could}{mfu}  data wait {wait:.0%}  lr {line['lr']:.2e}"
        )

    def _evaluate(self) -> str | None:
        """Accuracy on all of the validation data. Returns why the run has to stop, where too much is unreadable."""
        self.phase = "evaluate"
        config, val = self.config, self.prepared.val
        assert val is not None
        world = self.world
        recipe = Recipe.of_evaluation(config, val, world.rank, world.size, world.local_size)
        batches = self._load(recipe, in_use=1)
        with self.average.in_use() if self.average and config.evaluate.weights == "ema" else nullcontext():
            measured = classify(self.engine.module, config, world, val.manifest, batches)
        batches.close()
        body = {"eval": "val", "step": self.progress.step, "consumed": self.progress.consumed}
        body |= {"weights": config.evaluate.weights} if self.average else {}
        body |= {"samples": measured.samples, "holes": measured.holes}
        body |= {"accuracy": measured.accuracy, "loss": measured.loss}
        self.console.say(
            f"step {self.progress.step:,}: accuracy {measured.accuracy:.2%}, loss {measured.loss:.4f} {measured.on}"
        )
        return self.journal.evaluation(body, list(measured.unread), recipe.corpus)

    def _save_if_new(self, required: bool) -> None:
        """Publishes a checkpoint of this step. Where it is not `required`, a failure is said and the run goes on."""
        if self.saved_step == self.progress.step:
            return
        self.phase = "save"
        progress, config = self.progress, self.config
        began = time.perf_counter()
        facts = {
            "step": progress.step,
            "optimizer_step": optimizer_step(self.engine),
            "consumed": progress.consumed,
            "world_size": self.world.size,
            "zero_stage": self.engine.zero_optimization_stage(),
            "precision": config.precision,
            "config": config.to_json(exclude={"run_dir"}),
            "config_hash": config.hash,
            "parent": self.parent,
            "data": {
                "fingerprint": self.prepared.train.fingerprint,
                "order": self.loader.state() if isinstance(self.loader, MosaicLoader) else progress.order.to_json(),
                "ledger": progress.ledger.to_json(),
                "holes": self.holes.to_json(),
                "stretches": progress.stretches,
            },
        }
        slices = slices_to_save(self.engine, self.world.rank, self.world.size)
        try:
            path = commit.save(self.run.checkpoints, self.attempt, self.world, slices, facts, self.journal.sync)
        except WorkFailed as failure:
            if required:
                raise
            self.console.say(f"{failure}; training goes on, the newest checkpoint is {self.parent or 'none yet'}")
            return
        self.saved_step, self.parent = progress.step, path.name
        if self.world.is_main:
            commit.prune(self.run.checkpoints, config.checkpoint.keep_last)
        self.console.say(f"checkpoint {path.name} published in {time.perf_counter() - began:.1f} s")

    # -- the end -----------------------------------------------------------------------------------------------

    def _signal(self) -> str:
        """The signal that was received, here or on another rank."""
        return next((s for s in self.world.all_gather(self.stop.signal) if s), "a signal")

    def close(self) -> None:
        if self.loader:
            self.loader.close()
        self.world.close()
