"""A run's memory between flushes: device-side step results in, lines of metrics.jsonl and certificates out.

Nothing waits for the device between flushes; a flush is one reduction and one copy for all steps since the last.
"""

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
            WorkFailed: an epoch's digest does not hold, or too many holes.
        """
        if not self.pending:
            return []
        losses = self.world.sum_(torch.stack([result.loss_sum for _, result in self.pending])).tolist()
        norms = torch.stack([result.grad_norm for _, result in self.pending]).tolist()
        lines = []
        for (facts, result), loss, norm in zip(self.pending, losses, norms, strict=True):
            rows = result.rows.tolist()
            lines.append(self._line(facts, rows, loss, norm))
            self.ledger.add(epochs_touched(facts.consumed_before, facts.count, self.manifest.samples).start, rows)
        had_holes = any(line["holes"] for line in lines)
        self.pending.clear()
        if had_holes:  # known to all ranks alike
            self._write_holes()
        if self.world.is_main:
            self.metrics.write(lines)
            self.metrics.sync()
        self._certify(lines[-1]["consumed"])
        used = max(lines[-1]["consumed"], self.manifest.samples)
        if self.ledger.holes > max(_ALWAYS_TOLERATED_HOLES, self.max_hole_rate * used):
            raise WorkFailed(
                f"{self.ledger.holes} samples could not be read, more than data.max_hole_rate "
                f"{self.max_hole_rate} allows; they are listed in {self.run.holes}"
            )
        return lines

    def evaluation(self, line: dict) -> None:
        """Appends an evaluation's line."""
        if self.world.is_main:
            self.metrics.write([line | {"attempt": self.attempt}])
            self.metrics.sync()

    def _line(self, facts: StepFacts, rows: list[list[int]], loss_sum: float, grad_norm: float) -> dict:
        read = sum(row[READ] for row in rows)
        holes = sum(row[HOLES] for row in rows)
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
            "holes": holes,
            "attempt": self.attempt,
            "world_size": self.world.size,
            "batch_digest": batch_digest(rows),
        }

    def _write_holes(self) -> None:
        everyones = [hole for holes in self.world.gather(self.pending_holes) for hole in holes]
        self.pending_holes.clear()
        if self.world.is_main:
            self.holes.write(everyones)
            for hole in everyones:
                where = f"{hole['shard']}, offset {hole['offset']}"
                self.say(f"hole: sample {hole['key']} ({where}) counts as weight 0: {hole['cause']}")

    def _certify(self, consumed: int) -> None:
        certificates = self.ledger.certify(self.manifest, consumed)
        if self.world.is_main:
            self.digests.write(certificates)
            self.digests.sync()
        for c in certificates:
            check(c)
            self.say(f"epoch {c['epoch']}: all {c['samples']:,} samples read exactly once (digest {c['digest']})")
