"""Holes: samples that could not be used, what is said of them, when they are too many, which a rerun repeats.

A hole is of one account (part, epoch). Steps that are done again after a resume have the holes that they had before,
unread, so that they train on the same batches; in the next epoch each is tried anew. Torch-free.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.corpus import Corpus
from pipeline.data.ledger import Account
from pipeline.data.order import Accounting
from pipeline.data.sample import Hole
from pipeline.dataset.errors import UsageError

Line = dict[str, Any]  # of holes.jsonl
Kind = tuple[str, str]  # shard, cause
ByAccount = dict[Account, dict[int, str]]  # sample id -> cause
MOST_SAID = 8  # kinds of holes that are named at a time
MOST_KEPT = 10_000  # holes that a checkpoint lists
_HEAD = re.compile(rb'\{"step": \d+, "data": "([0-9a-f]+)", "part": (\d+), "epoch": (\d+), "sample": \d+, ')


@dataclass
class Holes:
    """Those of one attempt. Every rank has been told the same."""

    file: Path  # where all are written down
    known: ByAccount = field(default_factory=dict)  # of accounts under way
    fresh: int = 0  # that no earlier attempt had
    kinds: Counter[Kind] = field(default_factory=Counter)  # of the fresh ones
    _first: dict[Kind, Line] = field(default_factory=dict)
    _told: set[Kind] = field(default_factory=set)

    @classmethod
    def of(cls, file: Path, known: Iterable[tuple[int, int, int, str]]) -> "Holes":
        """Of an attempt that begins. `known` as `known_holes` found them."""
        holes = cls(file)
        for part, epoch, sample, cause in known:
            holes.known.setdefault(Account(part, epoch), {})[sample] = cause
        return holes

    def add(self, lines: Iterable[Line]) -> list[str]:
        """Takes note of holes. Returns what is to be said: a line for each (shard, cause) not named before."""
        for line in lines:
            if self.has(line):  # an earlier attempt said so
                continue
            self.known.setdefault(Account(line["part"], line["epoch"]), {})[line["sample"]] = line["cause"]
            kind = (f"{line['dataset']}: {line['shard']}" if "dataset" in line else line["shard"], line["cause"])
            self.fresh += 1
            self.kinds[kind] += 1
            self._first.setdefault(kind, line)
        return self._say([kind for kind, _ in self.kinds.most_common() if kind not in self._told])

    def has(self, line: Line) -> bool:
        """Whether it is known."""
        return line["sample"] in self.known.get(Account(line["part"], line["epoch"]), ())

    def keep(self, under_way: Collection[Account]) -> None:
        """Forgets the holes of accounts that have ended."""
        self.known = {account: ids for account, ids in self.known.items() if account in under_way}

    def too_many(self, samples: int, rate: float) -> str | None:
        """Why the run has to stop, where more than `rate` of `samples` are fresh holes; else None."""
        if self.fresh <= rate * samples:
            return None
        (((shard, cause), count), *others) = self.kinds.most_common()
        more = f"; {self.fresh - count:,} have {len(others):,} other causes or shards" if others else ""
        return (
            f"{self.fresh:,} of {samples:,} samples could not be read ({self.fresh / samples:.2g}, data.max_hole_rate "
            f"allows {rate:g}): {count:,} of {shard}: {cause}{more}. All are in {self.file}. Everything is saved: "
            "mend the data (vitstream verify says what is damaged) or raise data.max_hole_rate"
        )

    def to_json(self) -> dict[str, dict[str, list[int]]]:
        """For a checkpoint: account -> cause -> sample ids; no more than 10,000 of them, the newest."""
        listed: dict[str, dict[str, list[int]]] = {}
        room = MOST_KEPT
        for account in sorted(self.known, key=lambda account: account.epoch, reverse=True):
            for sample, cause in list(self.known[account].items())[::-1][:room]:
                listed.setdefault(str(account), {}).setdefault(cause, []).append(sample)
                room -= 1
        return listed

    def _say(self, kinds: list[Kind]) -> list[str]:
        said = []
        for shard, cause in kinds[:MOST_SAID]:
            first, count = self._first[shard, cause], self.kinds[shard, cause]
            at = f" at offset {first['offset']}" if first["offset"] >= 0 else ""
            key = first["key"] or f"sample {first['sample']}"
            number = "1 sample so far," if count == 1 else f"{count:,} samples so far, the first is"
            said.append(f"hole: {shard}: {cause}; {number} {key}{at}; all are in {self.file}")
        if rest := kinds[MOST_SAID:]:
            count, shards = sum(self.kinds[kind] for kind in rest), len({shard for shard, _ in rest})
            said.append(f"holes: {count:,} samples more, of {shards:,} shards; all are in {self.file}")
        self._told.update(kinds)
        return said


def hole_line(where: Line, account: tuple[int, int], hole: Hole, corpus: Corpus, attempt: int) -> Line:
    """A line of holes.jsonl. `where` is {"step", "data"}, or what an evaluation has in their place."""
    line = where | {"part": account[0], "epoch": account[1], "sample": hole.id, "key": hole.key}
    if len(corpus.members) > 1:  # which of them the shard is of
        member = int(np.searchsorted(corpus.starts, hole.id, side="right")) - 1
        line["dataset"] = str(corpus.members[member].location)
    return line | {"shard": hole.shard, "offset": hole.offset, "cause": hole.cause, "attempt": attempt}


def short(fingerprint: str) -> str:
    """A corpus's fingerprint as a line of holes.jsonl has it: ids mean nothing in another."""
    return fingerprint[:12]


def known_holes(
    order: Accounting, fingerprint: str, consumed: int, checkpoint: dict[str, Any], written: Path
) -> list[list[Any]]:
    """[part, epoch, sample id, cause] of the holes of accounts that are not over when `consumed` samples are used.

    Args:
        order: the run's.
        fingerprint: the corpus's.
        consumed: samples used at the checkpoint from which the run goes on; 0 without one.
        checkpoint: what `Holes.to_json` gave it.
        written: holes.jsonl, which has those of steps after the checkpoint, too.

    Raises:
        UsageError: holes.jsonl has a line that is none of ours.
    """
    found: dict[tuple[Account, int], str] = {}
    for name, causes in checkpoint.items():
        found |= {(Account.of(name), sample): cause for cause, ids in causes.items() for sample in ids}
    for line in _lines_under_way(order, short(fingerprint), consumed, written):
        found[Account(line["part"], line["epoch"]), line["sample"]] = line["cause"]
    return [
        [*account, sample, cause] for (account, sample), cause in found.items() if _is_open(order, consumed, account)
    ]


def to_repeat(order: Accounting, consumed: int, known: ByAccount) -> dict[tuple[int, int], str]:
    """(epoch, sample id) -> cause of the known holes whose turn comes after `consumed`: the loader leaves them out."""
    repeated = {(account.epoch, sample): cause for account, ids in known.items() for sample, cause in ids.items()}
    if not repeated:
        return {}
    epochs, ids = np.array(list(repeated), np.int64).T
    ahead = order.when(epochs, ids) >= consumed
    return {key: cause for (key, cause), is_ahead in zip(repeated.items(), ahead, strict=True) if is_ahead}


def _is_open(order: Accounting, consumed: int, account: tuple[int, int]) -> bool:
    part, epoch = account
    return order.used(part, consumed) < (epoch + 1) * order.part_samples(part)


def _lines_under_way(order: Accounting, data: str, consumed: int, written: Path) -> Iterator[Line]:
    """Lines of holes.jsonl about accounts that are not over; the others, most of a long run's, are not parsed."""
    if not written.exists():
        return
    is_open: dict[bytes, bool] = {}
    with written.open("rb") as file:
        for number, text in enumerate(file, 1):
            head = _HEAD.match(text)
            if head is None or head[1] != data.encode():  # of an evaluation, an older version, other data
                continue
            account = head[2] + b":" + head[3]
            if account not in is_open:
                is_open[account] = _is_open(order, consumed, (int(head[2]), int(head[3])))
            if is_open[account] and text.endswith(b"\n"):  # else torn by a kill
                yield _parsed(text, written, number)


def _parsed(text: bytes, written: Path, number: int) -> Line:
    try:
        line = json.loads(text)
        _ = line["cause"]
        return line
    except (ValueError, KeyError):
        raise UsageError(f"{written}: line {number} is damaged; remove that line") from None
