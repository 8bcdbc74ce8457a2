"""A run's memory between flushes: device-side step results in, lines of metrics.jsonl and certificates out.

Nothing waits for the device between flushes; a flush is one reduction and one copy for all steps since the last.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pipeline.data.ledger import HOLES, READ, Ledger, batch_digest, check, epochs_touched
from pipeline.data.read import Hole
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.manifest import Manifest
from pipeline.distributed import World
from pipeline.run.directory import RunDirectory
from pipeline.run.metrics import JsonLines
from pipeline.step import StepResult

_ALWAYS_TOLERATED_HOLES = 8  # a rate says little about a small dataset


@dataclass
class StepFacts:
    """What the host knows about a step."""

    step: int  # counted from 1
    consumed_before: int
    count: int  # samples of the global batch
    lr: float
    step_s: float
    data_wait_s: float


@dataclass
class Journal:
    run: RunDirectory
    world: World
    manifest: Manifest
    ledger: Ledger
    attempt: int
    max_hole_rate: float
    mfu_of: Callable[[float], float | None]  # global images per second -> MFU
    say: Callable[[str], None]
    pending: list[tuple[StepFacts, StepResult]] = field(default_factory=list)
    pending_holes: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.world.is_main:
            self.metrics = JsonLines(self.run.metrics)
            self.digests = JsonLines(self.run.digests)
            self.holes = JsonLines(self.run.holes)

    def add(self, facts: StepFacts, result: StepResult, holes: list[tuple[int, Hole]]) -> None:
        """Keeps a step for the next flush."""
        self.pending.append((facts, result))
        self.pending_holes += [
            {"step": facts.step, "epoch": epoch, "key": h.key, "shard": h.shard, "offset": h.offset, "cause": h.cause}
            for epoch, h in holes
        ]

    def flush(self) -> list[dict]:
        """Writes all pending steps; every rank calls it at the same step. Returns their lines.

        Raises:
            WorkFailed: on all ranks: a loss or gradient that is not finite, an epoch's digest that does not hold, too
                many holes. Since every checkpoint is preceded by a flush, none is made of such a state.
        """
        if not self.pending:
            return []
        lines = self._lines()
        self.pending.clear()
        if any(line["holes"] for line in lines):  # known to all ranks alike
            self._gather_holes()
        consumed = lines[-1]["consumed"]
        certificates = self.ledger.certify(self.manifest, consumed)
        if self.world.is_main:
            self.metrics.add(lines)
            self.digests.add(certificates)
            self._try_to_sync()
        for c in certificates:
            check(c)
            self.say(f"epoch {c['epoch']}: all {c['samples']:,} samples read exactly once (digest {c['digest']})")
        _check_finite(lines)
        if self.ledger.holes > max(_ALWAYS_TOLERATED_HOLES, self.max_hole_rate * max(consumed, self.manifest.samples)):
            raise WorkFailed(
                f"{self.ledger.holes} samples could not be read, more than data.max_hole_rate "
                f"{self.max_hole_rate} allows; they are listed in {self.run.holes}",
                cause="data",
            )
        return lines

    def evaluation(self, line: dict) -> None:
        """Appends an evaluation's line."""
        if self.world.is_main:
            self.metrics.add([line | {"attempt": self.attempt}])
            self._try_to_sync()

    def sync(self) -> None:
        """Rank 0: everything so far is on disk, or OSError. A checkpoint is published only after it."""
        for file in (self.metrics, self.digests, self.holes):
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
        lines, first = [], 0
        for (facts, result), loss, norm in zip(self.pending, losses, norms, strict=True):
            rows = all_rows[first : first + len(result.rows)]
            first += len(rows)
            lines.append(self._line(facts, rows, loss, norm))
            self.ledger.add(epochs_touched(facts.consumed_before, facts.count, self.manifest.samples).start, rows)
        return lines

    def _line(self, facts: StepFacts, rows: list[list[int]], loss_sum: float, grad_norm: float) -> dict:
        read = sum(row[READ] for row in rows)
        rate = facts.count / facts.step_s
        return {
            "step": facts.step,
            "epoch": facts.consumed_before // self.manifest.samples,
            "consumed": facts.consumed_before + facts.count,
            "loss": loss_sum / max(1, read),
            "lr": facts.lr,
            "grad_norm": grad_norm,
            "images_per_s": round(rate, 3),
            "mfu": self.mfu_of(rate),
            "step_s": round(facts.step_s, 6),
            "data_wait_s": round(facts.data_wait_s, 6),
            "holes": sum(row[HOLES] for row in rows),
            "attempt": self.attempt,
            "world_size": self.world.size,
            "batch_digest": batch_digest(rows),
        }

    def _gather_holes(self) -> None:
        everyones = [hole for holes in self.world.all_gather(self.pending_holes) for hole in holes]
        self.pending_holes.clear()
        if self.world.is_main:
            self.holes.add(everyones)
            for hole in everyones:
                where = f"{hole['shard']}, offset {hole['offset']}"
                self.say(f"hole: sample {hole['key']} ({where}) counts as weight 0: {hole['cause']}")


def _check_finite(lines: list[dict]) -> None:
    for line in lines:
        if not (math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"])):
            raise WorkFailed(
                f"step {line['step']}: loss {line['loss']}, gradient norm {line['grad_norm']}: training has diverged, "
                "and no checkpoint is made of it; lower optimizer.lr, lengthen the warm-up, or set "
                "regularization.clip_norm",
                resumable=False,
            )
