"""The evaluations of a run under way, on `data.val`: when one is due, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from pipeline.agreement import Agreement
from pipeline.config import Config
from pipeline.data.corpus import Member
from pipeline.data.loader import Loader
from pipeline.data.recipe import Recipe
from pipeline.distributed import World
from pipeline.evaluate.classify import classify
from pipeline.run.console import Console
from pipeline.run.journal import Journal
from pipeline.run.metrics import has_evaluation


@dataclass
class Validation:
    config: Config
    val: Member | None  # no evaluation is ever due without it
    world: World
    agreement: Agreement
    console: Console

    def is_due(self, step: int, total_steps: int) -> bool:
        """After so many steps."""
        return self.val is not None and (step % self.config.evaluate.every_steps == 0 or step == total_steps)

    def is_missing(self, metrics: Path, step: int, total_steps: int) -> bool:
        """Whether the attempt that got here was stopped in the evaluation that is due here. Every rank calls it."""
        missing = False
        if self.world.is_main and step > 0:
            missing = self.is_due(step, total_steps) and not has_evaluation(metrics, step)
        return self.world.broadcast(missing)

    def run(self, model: nn.Module, journal: Journal, step: int, consumed: int) -> str | None:
        """Accuracy on all of the validation data. Returns why the run has to stop, where too much is unreadable.

        Raises:
            Stopping: on all ranks alike, in the midst of it: nothing is written.
        """
        config, val, world, say = self.config, self.val, self.world, self.console.say
        assert val is not None
        recipe = Recipe.of_evaluation(config, val, world.rank, world.size, world.local_size)
        self.console.progress(f"step {step:,}: evaluation on {val.manifest.samples:,} samples")
        before = step - 1  # who wants to stop after this step gets its evaluation, too
        loader = self._load(recipe, partial(self.agreement.is_off, before))
        batches = self.agreement.each(loader, recipe.feed.items, before)
        measured = classify(model, config, world, val.manifest, batches)
        loader.close()
        say(f"step {step:,}: accuracy {measured.accuracy:.2%}, loss {measured.loss:.4f} {measured.on}")
        body = {"eval": "val", "step": step, "consumed": consumed}
        body |= {"weights": config.evaluate.weights} if config.ema else {}
        body |= {"samples": measured.samples, "holes": measured.holes}
        body |= {"accuracy": measured.accuracy, "loss": measured.loss}
        return journal.evaluation(body, list(measured.unread), recipe.corpus)

    def _load(self, recipe: Recipe, give_up: Callable[[], bool]) -> Loader:
        loader = self.config.loader
        return Loader(recipe, loader.workers, loader.prefetch, 1, self.world.device, give_up)
