"""Steps whose gradient was not finite, so that they were not applied: counted, and their samples written down."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.corpus import Corpus
from pipeline.data.lookup import keys_of
from pipeline.data.order import Accounting
from pipeline.dataset.errors import WorkFailed
from pipeline.run.directory import RunDirectory
from pipeline.run.metrics import JsonLines

_FIX = "lower optimizer.lr, lengthen the warm-up, or set regularization.clip_norm"


@dataclass
class NonFinite:
    """Of one attempt. Ranks count alike, rank 0 writes."""

    run: RunDirectory
    corpus: Corpus
    order: Accounting
    most: int  # max_nonfinite_steps
    writes: bool
    count: int = 0
    sound: bool = True
    """Whether the newest step was finite. If not, the one before may have left weights of which nothing good comes."""

    def __post_init__(self) -> None:
        self.file = JsonLines(self.run.nonfinite) if self.writes else None

    def see(self, lines: list[dict[str, Any]], counts: list[int]) -> list[str]:
        """What is to be said of steps, a line each. Every rank calls it.

        Args:
            lines: of metrics.jsonl, in order; those that were not applied say so.
            counts: samples of each.
        """
        found = [(line, count) for line, count in zip(lines, counts, strict=True) if not line.get("applied", True)]
        self.count += len(found)
        self.sound = all(math.isfinite(lines[-1][key]) for key in ("loss", "grad_norm"))
        if self.file is not None:
            told = ("step", "epoch", "consumed", "loss", "grad_norm", "attempt")
            self.file.add({key: line[key] for key in told} | {"keys": self._keys(line, n)} for line, n in found)
        first = self.count - len(found) + 1
        return [
            f"step {line['step']:,}: its gradient is not finite, and it was not applied ({number} of at most "
            f"{self.most} in this attempt); its samples are in {self.run.nonfinite}"
            for number, (line, _) in enumerate(found, first)
        ]

    def check(self, lines: list[dict[str, Any]]) -> None:
        """Raises WorkFailed, on all ranks alike, where training has diverged: no checkpoint is made of that."""
        for line in lines:
            if math.isfinite(line["grad_norm"]) and not math.isfinite(line["loss"]):
                self._fail(f"step {line['step']}: loss {line['loss']}, gradient norm {line['grad_norm']}")
        if self.count > self.most:
            self._fail(
                f"{self.count} steps of this attempt had no finite gradient, the last at step {lines[-1]['step']}"
            )

    def _fail(self, what: str) -> None:
        why = f"{what}: training has diverged, and no checkpoint is made of it; {_FIX}, and see {self.run.nonfinite}"
        raise WorkFailed(why, resumable=False)

    def _keys(self, line: dict[str, Any], count: int) -> list[str] | None:
        """Of the samples of a step's global batch; None where they cannot be known."""
        at = getattr(self.order, "at", None)
        if at is None:  # mosaicml-streaming's own order
            return None
        try:
            return keys_of(self.corpus, at(np.arange(line["consumed"] - count, line["consumed"]))[1])
        except WorkFailed:  # an index cannot be read now
            return None
