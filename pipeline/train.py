"""The training story, top to bottom: join, choose a checkpoint, build, then steps, evaluations and saves.

All state that a resume needs is `Progress` and the engine's tensors. Everything else is a pure function of them.
"""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch

from pipeline.agreement import Agreement, Stopping
from pipeline.checkpoint.copies import Copier
from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.load import begun, load
from pipeline.checkpoint.manifest import CheckpointManifest, published, step_name
from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.checkpoint.saver import Saver
from pipeline.checkpoint.start import start_from
from pipeline.checkpoint.state import slices_to_save
from pipeline.clock import stalls_of, time_reduction
from pipeline.data.mosaic.loader import MosaicLoader
from pipeline.data.training import TrainingLoader, load_training
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import write_private
from pipeline.dataset.remote.traffic import Fetched
from pipeline.distributed import World
from pipeline.engine import build_engine, build_model, import_deepspeed
from pipeline.evaluate.validation import Validation
from pipeline.launch.environment import RankEnvironment
from pipeline.launch.gpus import device_peak
from pipeline.launch.preflight import Prepared, compare
from pipeline.launch.saving import saving_of_parameters
from pipeline.meter import Meter
from pipeline.models.mfu import Utilisation
from pipeline.optim.ema import AVERAGE, WeightAverage
from pipeline.optim.masters import optimizer_step
from pipeline.optim.schedule import learning_rate
from pipeline.progress import Progress
from pipeline.run.console import Console
from pipeline.run.environment import code_version, environment_facts
from pipeline.run.garbage import Garbage
from pipeline.run.holes import Holes, known_holes, to_repeat
from pipeline.run.introduction import introduction
from pipeline.run.journal import Journal, StepFacts
from pipeline.run.lineage import Lineage
from pipeline.run.progress_line import progress_line
from pipeline.run.starvation import split
from pipeline.run.stop_request import StopRequest
from pipeline.sinks.feed import Feed
from pipeline.step import train_step


class Trainer:
    """One rank of one attempt."""

    def __init__(
        self,
        prepared: Prepared,
        environment: RankEnvironment,
        rendezvous: str | None,
        attempt: int | None,
        stop: StopRequest,
        from_scratch: bool,
    ) -> None:
        self.config, self.run, self.prepared = prepared.config, prepared.run, prepared
        self.stop = stop
        import_deepspeed()
        self.world = World(environment, rendezvous)
        self.agreement = Agreement(self.world, stop)
        self.attempt: int = self.world.broadcast(attempt)
        self.console = Console(self.world.is_main, self.run.attempt(self.attempt) / "rank-0.log")
        self.validation = Validation(self.config, prepared.val, self.world, self.agreement, self.console)
        self.from_scratch = from_scratch
        self.progress = Progress.begun(self.config, prepared.train, self.world)
        self.loader: TrainingLoader | None = None
        self.copier = Copier.of(self.config.checkpoint.copy_to, self.console.say) if self.world.is_main else None
        self.lineage = Lineage(code_version() if self.world.is_main else {})
        self.resumed_from: str | None = None
        self.changed: list[str] = []  # since that checkpoint, a line each
        self.stalls: dict[str, float] = {}  # after the last step of an attempt that ends as it should

    def train(self) -> None:
        """Runs to the end. Raises StoppedResumable, UsageError or WorkFailed, on all ranks alike."""
        if self.from_scratch and self.world.is_main:
            self.stop.enter("save")  # half of it set aside, it could not be gone on with
            self.run.set_aside(self.attempt)
            self.stop.enter("setup")
        checkpoint = choose_checkpoint(self.run.checkpoints, self.attempt, self.world, self.console.say)
        if checkpoint:
            self.changed = self._compare(checkpoint[1])
            self.progress = Progress.after(checkpoint[1], self.config, self.prepared.train, self.world)
            self.lineage = Lineage.after(self.lineage.code, checkpoint[1].code, checkpoint[1].losses)
            self.resumed_from = checkpoint[0].name
        if self.copier:  # earlier attempts may not have come to all of them
            self.copier.offer(*published(self.run.checkpoints))
        self.feed = self.progress.feed(self.config, self.prepared.train, self.world)
        self.first_step = self.progress.step
        self.total_steps = self.progress.step + self.feed.steps
        self.evaluates_first = self.validation.is_missing(self.run.metrics, self.first_step, self.total_steps)
        if self.feed.steps <= 0 and not self.evaluates_first:
            self.console.say(f"finished: all {self.progress.step:,} steps are done, and the checkpoint verifies")
            self._wait_for_copies()
            return
        self._introduce()
        self._build(checkpoint)
        try:
            self._to_the_end()
        finally:
            self.journal.close()

    def _to_the_end(self) -> None:
        try:
            try:
                with Garbage() as self.garbage:
                    self._loop()
            except Stopping:
                self._stop()
        except WorkFailed:  # on all ranks alike: a checkpoint that is under way is still a good one
            self.saver.wait()
            raise
        self._save_if_new(required=True)
        self._wait_for_copies()
        self.console.say(f"finished: {self.progress.step:,} steps, {self.progress.consumed:,} samples")

    # -- setting up --------------------------------------------------------------------------------------------

    def _compare(self, manifest: CheckpointManifest) -> list[str]:
        """What differs from the checkpoint that was chosen, which may be an older one than was looked at before.

        Raises UsageError where it does not fit, on all ranks alike.
        """
        changed, refused = [], None
        if self.world.is_main:
            prepared = self.prepared
            try:
                changed = compare(manifest, self.config, prepared.train, prepared.accept_changes)
            except UsageError as error:
                refused = f"{step_name(manifest.step)}, the newest that verifies: {error}"
        changed, refused = self.world.broadcast((changed, refused))
        if refused:
            raise UsageError(refused)
        return changed

    def _introduce(self) -> None:
        """Says what starts, and writes config.yaml and env.json."""
        if not self.world.is_main:
            return
        if self.resumed_from is None:  # the run begins here, whatever was tried before
            write_private(self.run.config, self.config.to_yaml().encode())
        self.run.write_environment(environment_facts(str(self.world.device)))
        start = f"{self.resumed_from}, which verifies" if self.resumed_from else f"step {self.progress.step:,}"
        self.console.say(f"attempt {self.attempt}, from {start}: {self.run.path}")
        for line in (*self.changed, *self.lineage.changed):
            self.console.say(f"changed since that checkpoint: {line}")
        for line in introduction(self.prepared, self.feed, self.world.size, self.total_steps):
            self.console.say(line)

    def _build(self, checkpoint: tuple[Path, CheckpointManifest] | None) -> None:
        """Model, engine, restored state, loader, saver, journal."""
        config, world, corpus, feed, say = self.config, self.world, self.prepared.train, self.feed, self.console.say
        data = checkpoint[1].data if checkpoint else {}
        known = self._known_holes(data.get("holes", {}))
        if feed.steps > 0:  # first: it reads its first batches while the model is built
            order, total = data.get("order"), self.total_steps
            self.loader = load_training(
                config, corpus, feed, total, world, self.run.path, order, known, self._give_up, say
            )
        model = build_model(config, len(corpus.classes))
        if config.model.init and not checkpoint:
            for line in start_from(config.model.init, model, config.model.variant.heads, corpus.classes):
                self.console.say(line)
        count = sum(parameter.numel() for parameter in model.parameters())
        self.engine = build_engine(config, model, world.device, feed.batch, feed.accumulation, world.size, say)
        self.meter = Meter(world)
        self.clock = self.meter.clock
        time_reduction(self.engine, self.clock)
        self.average = WeightAverage(self.engine, config.ema.decay) if config.ema else None
        lacking = load(self.engine, TensorReader(*checkpoint), checkpoint[1]) if checkpoint else set()
        if self.average and AVERAGE in lacking:
            self.average.begin()
        for line in begun(lacking):
            say(line)
        newest = (checkpoint[0].name, checkpoint[1].step) if checkpoint else None
        size = saving_of_parameters(config, count, self.total_steps, world.size).snapshot
        self.saver = Saver(config.checkpoint, self.run.checkpoints, self.attempt, world, newest, size, say, self.copier)
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
            meter=self.meter,
            sinks=Feed.of(config, self.run, self.first_step, say) if world.is_main else None,
            utilisation=Utilisation(config, len(corpus.classes), self.total_steps, peak and peak * world.size),
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

    def _give_up(self) -> bool:
        """Whether data for the next step is not to be waited for."""
        return self.agreement.is_off(self.progress.step)

    # -- steps -------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """To the end. Raises Stopping, on all ranks alike, where one of them was asked to stop."""
        config = self.config
        self.clock.start()
        if self.evaluates_first:
            self._conclude_step(evaluates=True, saves=False)
        for index in range(self.feed.steps):
            self._step(index)
            step = self.progress.step
            evaluates, saves = self.validation.is_due(step, self.total_steps), step % config.checkpoint.every_steps == 0
            if step % config.log_every == 0 or evaluates or saves or step == self.total_steps:
                self._flush()
            self._conclude_step(evaluates, saves)

    def _step(self, index: int) -> None:
        """One optimizer step. Raises Stopping instead."""
        assert self.loader is not None
        done, count = self.progress.step, self.feed.count(index)
        accounts = len(self.progress.order.accounts(self.progress.consumed, count))
        self.stop.enter("data", done)
        taken = self.agreement.take(self.loader, self.feed.accumulation, accounts, done)
        self.stop.enter("step")
        micro_batches, step = taken.micro_batches, done + 1
        lr = learning_rate(self.config.schedule, self.config.optimizer.lr, step, self.total_steps)
        self.clock.mark("data")
        result = train_step(self.engine, self.config, self.world, micro_batches, taken.rows, lr, step, self.clock.mark)
        if self.average:
            self.average.update()
        self.clock.end_step()
        waits = split(taken.waits_s, [batch.times for batch in micro_batches])
        fetched = Fetched.total(batch.fetched for batch in micro_batches)
        facts = StepFacts(step, self.progress.consumed, count, lr, waits, taken.agreed_s, fetched, time.time())
        holes = [hole for batch in micro_batches for hole in batch.holes]
        self.journal.add(facts, result, holes)
        self.progress.step = step
        self.progress.consumed += count

    def _conclude_step(self, evaluates: bool, saves: bool) -> None:
        """What is due after a step, and whether the run may go on."""
        unreadable = self.journal.too_many_holes()
        if evaluates:
            self.stop.enter("evaluate", self.progress.step)
            step, consumed = self.progress.step, self.progress.consumed
            averaged = self.average and self.config.evaluate.weights == "ema"
            with self.average.in_use() if averaged else nullcontext():
                unreadable = self.validation.run(self.engine.module, self.journal, step, consumed) or unreadable
            self.clock.mark("evaluate")
        if (saves and self.journal.nonfinite.sound) or unreadable:
            self._save_if_new(required=unreadable is not None)
        if unreadable:
            raise WorkFailed(unreadable, cause="data")

    def _stop(self) -> NoReturn:
        """Saves what is new, and ends this attempt: all ranks have agreed."""
        step = self.progress.step
        asked = self.agreement.asked(step)
        self._flush()
        unreadable = self.journal.too_many_holes()
        self._save_if_new(required=True)
        if unreadable:
            raise WorkFailed(unreadable, cause="data")
        raise asked.stopped(f"after step {step:,}, everything saved")

    def _flush(self) -> None:
        """Writes the pending steps and shows the last."""
        if lines := self.journal.flush():
            if jump := self.lineage.add([line["loss"] for line in lines if line.get("applied", True)]):
                self.console.say(jump)
            left = self.journal.utilisation.steps_left(self.progress.step)
            self.console.progress(progress_line(lines, self.total_steps, left))
            self.garbage.collect()
        self.clock.mark("flush")

    def _save_if_new(self, required: bool) -> None:
        """Begins to publish a checkpoint of this step, if there is none. `required`: waits, and raises if it fails."""
        self.stop.enter("save", self.progress.step)
        if self.saver.step != self.progress.step or (required and self.saver.wait()):
            slices = slices_to_save(self.engine, self.world.rank, self.world.size)
            self.saver.save(slices, self._facts(), self.journal.sync, None if required else "training goes on")
        if required and (failure := self.saver.wait()):
            raise failure
        self.clock.mark("save")
        if required:
            self.stalls = stalls_of(self.clock.rest())

    def _facts(self) -> dict[str, Any]:
        """The manifest's fields, but for what the saver knows."""
        progress, config = self.progress, self.config
        return {
            "step": progress.step,
            "optimizer_step": optimizer_step(self.engine),
            "consumed": progress.consumed,
            "world_size": self.world.size,
            "zero_stage": self.engine.zero_optimization_stage(),
            "precision": config.precision,
            "config": config.to_checkpoint(),
            "config_hash": config.hash,
            "data": {
                "fingerprint": self.prepared.train.fingerprint,
                "order": self._order_to_json(),
                "ledger": progress.ledger.to_json(),
                "holes": self.holes.to_json(),
                "stretches": progress.stretches,
                "foreign": self.prepared.foreign,
            },
            "classes": list(self.prepared.train.classes),
            **self.lineage.facts(),
        }

    def _order_to_json(self) -> dict[str, Any]:
        """What a resume needs of the order."""
        if isinstance(self.loader, MosaicLoader):  # of whose order only itself knows
            return self.loader.state(self.progress.step - self.first_step)
        return self.progress.order.to_json()

    def _wait_for_copies(self) -> None:
        """At a run's end. Raises StoppedResumable, on all ranks alike, where one of them is asked to stop meanwhile."""
        step = self.progress.step
        try:
            self.agreement.wait(self.copier.wait if self.copier else None, step)
        except Stopping:
            done = f"while copies were made, all {step:,} steps saved (the next start copies what is missing)"
            raise self.agreement.asked(step).stopped(done) from None

    # -- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self.loader:
            self.loader.close()
        self.world.close()
