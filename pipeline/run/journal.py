"""A run's memory between flushes: device-side step results in, lines of metrics.jsonl and certificates out.

Nothing waits for the device between flushes; a flush is one reduction and one copy for all steps since the last.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from pipeline.clock import Part, columns_of
from pipeline.config import Config
from pipeline.data.corpus import Corpus
from pipeline.data.ledger import HOLES, READ, Account, Ledger, batch_digest, check, pixel_digest
from pipeline.data.order import Accounting
from pipeline.data.sample import Hole
from pipeline.dataset.remote.traffic import Fetched
from pipeline.distributed import World
from pipeline.meter import Meter
from pipeline.models.mfu import Utilisation
from pipeline.optim.finite import judged
from pipeline.run.afar import Afar, columns
from pipeline.run.directory import RunDirectory
from pipeline.run.holes import Holes, hole_line, short
from pipeline.run.metrics import JsonLines
from pipeline.run.nonfinite import NonFinite
from pipeline.run.slow_host import SlowHosts
from pipeline.run.starvation import Waits, Watch, could_feed
from pipeline.sinks.feed import Feed
from pipeline.step import StepResult


@dataclass
class StepFacts:
    """What the host knows about a step."""

    step: int  # counted from 1
    consumed_before: int
    count: int  # samples of the global batch
    lr: float
    waits: Waits
    agreed_s: float  # waited for the other ranks' data
    fetched: Fetched
    time: float  # unix seconds at which the host was done with it; its device may not have been


@dataclass
class Journal:
    config: Config
    run: RunDirectory
    world: World
    corpus: Corpus
    order: Accounting
    ledger: Ledger
    holes: Holes
    attempt: int
    meter: Meter
    sinks: Feed | None  # of rank 0
    utilisation: Utilisation
    say: Callable[[str], None]
    pending: list[tuple[StepFacts, StepResult]] = field(default_factory=list)
    pending_holes: list[dict] = field(default_factory=list)
    used: int = 0  # samples of this attempt, holes included

    def __post_init__(self) -> None:
        self.evaluated: dict[str, Holes] = {}  # name of an evaluation -> its holes so far
        most, main = self.config.max_nonfinite_steps, self.world.is_main
        self.nonfinite = NonFinite(self.run, self.corpus, self.order, most, main)
        if main:
            self.watch = Watch(self.config, self.corpus.is_remote)
            self.afar = Afar(self.corpus)
            self.slow_hosts = SlowHosts()
            self.metrics = JsonLines(self.run.metrics)
            self.digests = JsonLines(self.run.digests)
            self.hole_lines = JsonLines(self.run.holes)

    def add(self, facts: StepFacts, result: StepResult, holes: list[tuple[Account, Hole]]) -> None:
        """Keeps a step for the next flush."""
        self.pending.append((facts, result))
        where = {"step": facts.step, "data": short(self.corpus.fingerprint)}
        self.pending_holes += [hole_line(where, account, hole, self.corpus, self.attempt) for account, hole in holes]

    def flush(self) -> list[dict]:
        """Writes all pending steps; every rank calls it at the same step. Returns their lines.

        Raises:
            WorkFailed: on all ranks: training has diverged, an epoch's digest does not hold.
                Since every checkpoint is preceded by a flush, none is made of such a state.
        """
        if not self.pending:
            return []
        lines = self._lines()
        counts = [facts.count for facts, _ in self.pending]
        count = sum(counts)
        self.used += count
        self.pending.clear()
        if any(line["holes"] for line in lines):  # known to all ranks alike
            self._gather_holes()
        certificates = self.ledger.certify(self.order, self.corpus, lines[-1]["consumed"])
        self._say_all(self.nonfinite.see(lines, counts))
        if self.world.is_main:
            self.metrics.add(lines)
            self.digests.add(certificates)
            self._try_to_sync()
            self._show(lines)
        for certificate in certificates:
            check(certificate)
            self.say(_certified(certificate))
        if self.world.is_main and self.corpus.is_remote:
            self.afar.add(count, lines)
            if certificates:
                self.say(self.afar.told())
        self.holes.keep(self.ledger.open)
        self.nonfinite.check(lines)
        if self.world.is_main:
            for advice in filter(None, (self.watch.see(lines), self.slow_hosts.see(lines[-1]))):
                self.say(str(advice))
        return lines

    def too_many_holes(self) -> str | None:
        """Why the run has to be saved and stopped, or None; the same on all ranks. Of this attempt, up to the flush.

        Counted from the attempt's start: who goes on after that has seen what was missing.
        """
        return self.holes.too_many(max(self.corpus.samples, self.used), self.config.data.max_hole_rate)

    def evaluation(self, line: dict[str, Any], holes: list[tuple[Account, Hole]], corpus: Corpus) -> str | None:
        """Appends an evaluation's line; every rank calls it.

        Args:
            line: with the evaluation's name as `eval`.
            holes: this rank's.
            corpus: that was evaluated on.

        Returns:
            Why the run has to be saved and stopped: too many of the samples are holes. Or None.
        """
        where = {"eval": line["eval"], "step": line["step"]}
        mine = [hole_line(where, account, hole, corpus, self.attempt) for account, hole in holes]
        everyones = [found for each in self.world.all_gather(mine) for found in each]
        now = Holes(self.run.holes)
        now.add(everyones)
        too_many = now.too_many(corpus.samples, self.config.data.max_hole_rate)
        so_far = self.evaluated.setdefault(line["eval"], Holes(self.run.holes))
        new = [found for found in everyones if not so_far.has(found)]
        self._say_all(f"{line['eval']}: {said}" for said in so_far.add(new))
        if self.world.is_main:
            self.hole_lines.add(new)
            line |= {"too_many_holes": True} if too_many else {}
            line |= {"time": round(time.time(), 3), "attempt": self.attempt}
            self.metrics.add([line])
            self._try_to_sync()
            self._show([line])
        return f"{line['eval']}: {too_many}" if too_many else None

    def sync(self) -> None:
        """Rank 0: everything so far is on disk, or OSError. A checkpoint is published only after it."""
        files = (self.hole_lines, self.nonfinite.file, self.metrics, self.digests)
        for file in filter(None, files):  # holes first: a rerun of a step must know its holes
            file.sync()

    def _try_to_sync(self) -> None:
        try:
            self.sync()
        except OSError as error:
            self.say(f"cannot write to {self.run.path}: {error.strerror}; kept in memory, to be written with the next")

    def close(self) -> None:
        """Whatever became of the attempt."""
        if self.sinks:
            self.sinks.close()

    def _show(self, lines: list[dict]) -> None:
        if self.sinks:
            self.sinks.add(lines)

    def _lines(self) -> list[dict]:
        """The pending steps as lines of metrics.jsonl; their rows go into the ledger."""
        results = [result for _, result in self.pending]
        losses = self.world.all_reduce(torch.stack([result.loss_sum for result in results])).tolist()
        norms = judged(torch.stack([result.grad_norm for result in results])).tolist()
        all_rows = iter(torch.cat([result.rows for result in results]).tolist())
        parts, of_flush = self.meter.read([facts.agreed_s for facts, _ in self.pending])
        lines = []
        told = zip(self.pending, parts, losses, norms, self._waits(), self._fetched(), strict=True)
        for (facts, _), seconds, loss, norm, waits, fetched in told:
            accounts = [Account(*each) for each in self.order.accounts(facts.consumed_before, facts.count)]
            rows = dict(zip(accounts, islice(all_rows, len(accounts)), strict=True))
            lines.append(self._line(facts, rows, loss, norm, waits, seconds) | fetched)
            self.ledger.add(accounts, list(rows.values()))
        lines[-1] |= of_flush
        return lines

    def _waits(self) -> list[Waits]:
        """Of each pending step, those of the rank that waited longest, with which all others did.

        One rank's own stages, so that they add up. Two small reductions of what the hosts know; no device is asked.
        """
        mine = [facts.waits for facts, _ in self.pending]
        totals = torch.tensor([[w.total_s, w.worker_s_per_image] for w in mine], dtype=torch.float64)
        longest = self.world.maximum(totals.clone())
        stages = torch.tensor([w.stages for w in mine], dtype=torch.float64)
        stages[totals[:, 0] < longest[:, 0]] = 0.0
        felt = self.world.maximum(stages)
        return [Waits(*parts, slowest) for parts, slowest in zip(felt.tolist(), longest[:, 1].tolist(), strict=True)]

    def _fetched(self) -> list[dict[str, int]]:
        """What came from afar, to all ranks, while each pending step was waited for; nothing where all data is here."""
        if not self.corpus.is_remote:
            return [{} for _ in self.pending]
        counts = self.world.total(torch.tensor([facts.fetched for facts, _ in self.pending], dtype=torch.int64))
        return [columns(row) for row in counts.tolist()]

    def _line(
        self,
        facts: StepFacts,
        rows: dict[Account, list[int]],
        loss_sum: float,
        grad_norm: float,
        waits: Waits,
        seconds: dict[Part, float],
    ) -> dict:
        read = sum(row[READ] for row in rows.values())
        anatomy = columns_of(seconds)
        rate = facts.count / anatomy["step_s"]
        feeds = could_feed(waits.worker_s_per_image, self.world.size)
        return {
            "step": facts.step,
            "epoch": self.order.epoch(facts.consumed_before),
            "consumed": facts.consumed_before + facts.count,
            "loss": loss_sum / max(1, read),
            "lr": facts.lr,
            "grad_norm": grad_norm,
            **({} if math.isfinite(grad_norm) else {"applied": False}),
            "images_per_s": round(rate, 3),
            "mfu": self.utilisation.of(facts.step, rate),
            **anatomy,
            "data_wait_s": round(waits.total_s, 6),
            "data_read_s": round(waits.read_s, 6),
            "data_decode_s": round(waits.decode_s, 6),
            "data_copy_s": round(waits.copy_s, 6),
            "loader_images_per_s": feeds and round(feeds, 3),
            "holes": sum(row[HOLES] for row in rows.values()),
            **({"datasets": self._datasets(rows)} if self.corpus.parts > 1 else {}),
            "time": round(facts.time, 3),
            "attempt": self.attempt,
            "world_size": self.world.size,
            "batch_digest": batch_digest(list(rows.values())),
            **({"pixel_digest": pixel_digest(list(rows.values()))} if self.config.loader.pixel_digest else {}),
        }

    def _datasets(self, rows: dict[Account, list[int]]) -> dict[str, int]:
        """Samples of the global batch, by dataset; holes included."""
        counts = Counter({self.corpus.name(part): 0 for part in range(self.corpus.parts)})
        for account, row in rows.items():
            counts[self.corpus.name(account.part)] += row[READ] + row[HOLES]
        return dict(counts)

    def _gather_holes(self) -> None:
        everyones = [hole for holes in self.world.all_gather(self.pending_holes) for hole in holes]
        self.pending_holes.clear()
        if self.world.is_main:
            self.hole_lines.add(everyones)
        self._say_all(self.holes.add(everyones))

    def _say_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.say(line)


def _certified(certificate: dict[str, Any]) -> str:
    of = f" of {certificate['part']}" if "part" in certificate else ""
    read, holes, repeats = certificate["samples"], certificate["holes"], certificate.get("repeats", 0)
    all_but = f"all {read:,} samples" if not holes else f"{read:,} samples"
    once = "exactly once" if not repeats else f"once or, for {repeats:,} of them to fill the ranks, again"
    unread = f", {holes:,} could not be read" if holes else ""
    return f"epoch {certificate['epoch']}{of}: {all_but} read {once}{unread} (digest {certificate['digest']})"
