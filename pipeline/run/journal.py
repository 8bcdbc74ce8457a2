"""A run's memory between flushes: device-side step results in, lines of metrics.jsonl and certificates out.

Nothing waits for the device between flushes; a flush is one reduction and one copy for all steps since the last.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, field

import torch

from pipeline.config import Config
from pipeline.data.corpus import Corpus
from pipeline.data.ledger import HOLES, READ, Account, Ledger, batch_digest, check, pixel_digest
from pipeline.data.order import SampleOrder
from pipeline.data.read import Hole
from pipeline.dataset.errors import WorkFailed
from pipeline.distributed import World
from pipeline.run import starvation
from pipeline.run.directory import RunDirectory
from pipeline.run.holes import Holes, hole_line, short
from pipeline.run.metrics import JsonLines
from pipeline.run.starvation import Waits, Watch
from pipeline.step import StepResult


@dataclass
class StepFacts:
    """What the host knows about a step."""

    step: int  # counted from 1
    consumed_before: int
    count: int  # samples of the global batch
    lr: float
    step_s: float
    waits: Waits


@dataclass
class Journal:
    config: Config
    run: RunDirectory
    world: World
    corpus: Corpus
    order: SampleOrder
    ledger: Ledger
    holes: Holes
    attempt: int
    mfu_of: Callable[[float], float | None]  # global images per second -> MFU
    say: Callable[[str], None]
    pending: list[tuple[StepFacts, StepResult]] = field(default_factory=list)
    pending_holes: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._read = 0  # samples of this attempt
        self._watch = Watch(self.config, any(member.location.is_remote for member in self.corpus.members))
        if self.world.is_main:
            self.metrics = JsonLines(self.run.metrics)
            self.digests = JsonLines(self.run.digests)
            self.hole_lines = JsonLines(self.run.holes)

    def add(self, facts: StepFacts, result: StepResult, holes: list[tuple[Account, Hole]]) -> None:
        """Keeps a step for the next flush."""
        self.pending.append((facts, result))
        where = {"step": facts.step, "data": short(self.corpus.fingerprint)}
        self.pending_holes += [hole_line(where, account, hole, self.attempt) for account, hole in holes]

    def flush(self) -> list[dict]:
        """Writes all pending steps; every rank calls it at the same step. Returns their lines.

        Raises:
            WorkFailed: on all ranks: a loss or gradient that is not finite, an epoch's digest that does not hold.
                Since every checkpoint is preceded by a flush, none is made of such a state.
        """
        if not self.pending:
            return []
        lines = self._lines()
        self.pending.clear()
        if any(line["holes"] for line in lines):  # known to all ranks alike
            self._gather_holes()
        self._read += sum(line["count"] for line in lines)
        certificates = self.ledger.certify(self.order, self.corpus, lines[-1]["consumed"])
        if self.world.is_main:
            self.metrics.add([{key: value for key, value in line.items() if key != "count"} for line in lines])
            self.digests.add(certificates)
            self._try_to_sync()
        for c in certificates:
            check(c)
            self._certified(c)
        for grown in self.holes.end_of_epoch(self.ledger.open) if certificates else ():
            self.say(grown)
        _check_finite(lines)
        if advice := self._watch.see(lines):
            self.say(advice)
        return lines

    def too_many_holes(self) -> str | None:
        """Why the run has to be saved and stopped, or None; the same on all ranks, and after a flush up to date.

        Counted from the attempt's start: who goes on after that has seen what was missing.
        """
        samples = max(self.corpus.samples, self._read)
        return self.holes.too_many(samples, self.config.data.max_hole_rate)

    def evaluation_holes(self, step: int, holes: list[tuple[Account, Hole]], samples: int) -> str | None:
        """Writes down what an evaluation of `samples` could not read. Returns why the run has to stop, or None."""
        where = {"eval": "val", "step": step}
        found = [hole_line(where, account, hole, self.attempt) for account, hole in holes]
        everyones = [line for lines in self.world.all_gather(found) for line in lines]
        if not everyones:
            return None
        mine = Holes(self.run.holes)
        for line in mine.add(everyones):
            self.say(f"validation {line}")
        if self.world.is_main:
            self.hole_lines.add(everyones)
        return mine.too_many(samples, self.config.data.max_hole_rate)

    def evaluation(self, line: dict) -> None:
        """Appends an evaluation's line."""
        if self.world.is_main:
            self.metrics.add([line | {"attempt": self.attempt}])
            self._try_to_sync()

    def sync(self) -> None:
        """Rank 0: everything so far is on disk, or OSError. A checkpoint is published only after it."""
        for file in (self.hole_lines, self.metrics, self.digests):
            file.sync()

    def _try_to_sync(self) -> None:
        try:
            self.sync()
        except OSError as error:
            self.say(f"cannot write to {self.run.path}: {error.strerror}; kept in memory, to be written with the next")

    def _lines(self) -> list[dict]:
        """The pending steps as lines of metrics.jsonl; their rows go into the ledger."""
        results = [result for _, result in self.pending]
        losses = self.world.all_reduce(torch.stack([result.loss_sum for result in results])).tolist()
        norms = torch.stack([result.grad_norm for result in results]).tolist()
        all_rows = torch.cat([result.rows for result in results]).tolist()
        waits = self.world.maximum(torch.tensor([astuple(facts.waits) for facts, _ in self.pending])).tolist()
        lines, first = [], 0
        for (facts, result), loss, norm, wait in zip(self.pending, losses, norms, waits, strict=True):
            rows = all_rows[first : first + len(result.rows)]
            first += len(rows)
            accounts = self.order.accounts(facts.consumed_before, facts.count)
            lines.append(self._line(facts, accounts, rows, loss, norm, Waits(*wait)))
            self.ledger.add(accounts, rows)
        return lines

    def _line(
        self,
        facts: StepFacts,
        accounts: list[tuple[int, int]],
        rows: list[list[int]],
        loss_sum: float,
        grad_norm: float,
        waits: Waits,
    ) -> dict:
        read = sum(row[READ] for row in rows)
        rate = facts.count / facts.step_s
        could_feed = starvation.could_feed(waits.worker_s_per_image, self.world.size)
        line = {
            "step": facts.step,
            "epoch": facts.consumed_before // self.corpus.samples,
            "consumed": facts.consumed_before + facts.count,
            "count": facts.count,
            "loss": loss_sum / max(1, read),
            "lr": facts.lr,
            "grad_norm": grad_norm,
            "images_per_s": round(rate, 3),
            "mfu": self.mfu_of(rate),
            "step_s": round(facts.step_s, 6),
            "data_wait_s": round(waits.read_s + waits.decode_s + waits.copy_s, 6),
            "data_read_s": round(waits.read_s, 6),
            "data_decode_s": round(waits.decode_s, 6),
            "data_copy_s": round(waits.copy_s, 6),
            "loader_images_per_s": could_feed and round(could_feed, 1),
            "holes": sum(row[HOLES] for row in rows),
            "attempt": self.attempt,
            "world_size": self.world.size,
            "batch_digest": batch_digest(rows),
        }
        if self.config.loader.pixel_digest:
            line["pixel_digest"] = pixel_digest(rows)
        if self.corpus.parts > 1:
            counts = {self.corpus.name(part): 0 for part in range(self.corpus.parts)}
            for (part, _), row in zip(accounts, rows, strict=True):
                counts[self.corpus.name(part)] += row[READ] + row[HOLES]
            line["datasets"] = counts
        return line

    def _gather_holes(self) -> None:
        everyones = [hole for holes in self.world.all_gather(self.pending_holes) for hole in holes]
        self.pending_holes.clear()
        for line in self.holes.add(everyones):
            self.say(line)
        if self.world.is_main:
            self.hole_lines.add(everyones)

    def _certified(self, certificate: dict) -> None:
        of = f" of {certificate['part']}" if "part" in certificate else ""
        holes = f", {certificate['holes']:,} could not be read" if certificate["holes"] else ""
        self.say(
            f"epoch {certificate['epoch']}{of}: all {certificate['samples']:,} samples read exactly once{holes} "
            f"(digest {certificate['digest']})"
        )


def _check_finite(lines: list[dict]) -> None:
    for line in lines:
        if not (math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"])):
            raise WorkFailed(
                f"step {line['step']}: loss {line['loss']}, gradient norm {line['grad_norm']}: training has diverged, "
                "and no checkpoint is made of it; lower optimizer.lr, lengthen the warm-up, or set "
                "regularization.clip_norm",
                resumable=False,
            )
