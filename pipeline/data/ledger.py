"""The proof of exactly-once: hashes of the keys really read, added up per account, against the manifest.

An account is one epoch of one part of the data. A row of counts is int64 [ROW], sums modulo 2**64:

    READ, READ_SUM     samples read, and the sum of their keys' hashes
    HOLES, HOLES_SUM   samples that could not be, and the sum of theirs
    PLACES             sum of the hashes of the places of all of them, but for repeats that the order says are such
    PIXELS             sum of the hashes of their pixels and labels, where that is asked for
    KEYLESS            holes whose key nobody could say

Rows add, over samples, workers, ranks and steps, in any order. A batch has one row per account that it touches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.corpus import Corpus
from pipeline.data.keyed import mix64
from pipeline.data.order import Accounting
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.keys import MASK64, hex64

ROW = 7  # numbers in a row
READ, READ_SUM, HOLES, HOLES_SUM, PLACES, PIXELS, KEYLESS = range(ROW)
_BLOCK = 2**20


class Account(NamedTuple):
    """One pass over one part of the data."""

    part: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.part}:{self.epoch}"

    @classmethod
    def of(cls, text: str) -> "Account":
        """Inverse of `str`; a number alone is an epoch, from the days of a single part."""
        part, _, epoch = text.rpartition(":")
        return cls(int(part or 0), int(epoch))


@dataclass
class Ledger:
    """Running totals of the accounts under way. Small, explicit, part of every checkpoint."""

    open: dict[Account, list[int]] = field(default_factory=dict)  # account -> row
    holes: int = 0  # over the whole run

    def add(self, accounts: Sequence[tuple[int, int]], rows: Sequence[Sequence[int]]) -> None:
        """Adds the rows of a global batch, or of a rank's part of it: one for each account that the batch touches."""
        for account, row in zip(accounts, rows, strict=True):
            account = Account(*account)
            total = self.open.get(account, [0] * ROW)
            self.open[account] = [(a + b) & MASK64 for a, b in zip(total, row, strict=True)]
            self.holes += row[HOLES]

    def certify(self, order: Accounting, corpus: Corpus, consumed: int) -> list[dict[str, Any]]:
        """Certificates of the accounts that end at or before `consumed`; they leave the ledger.

        A certificate's `exactly_once` is false where the account's sums differ from what they must come to: a sample
        was read twice, missed or replaced (`check` raises for it). So it is where the order itself repeats samples;
        then `at_least_once` says whether the sums, without those repeats, are right.

        Raises:
            WorkFailed: an account under way has not had as many samples as it must have by now.
        """
        certificates = []
        for account, row in sorted(self.open.items()):
            samples = order.part_samples(account.part)
            due = min(samples, order.used(account.part, consumed) - account.epoch * samples)
            counted = row[READ] + row[HOLES]
            if due < samples:
                if counted != due:
                    say = f"{title(account, corpus)}: {counted:,} samples were accounted for, {due:,} were due"
                    raise WorkFailed(say, cause="data", resumable=False)
                continue
            certificates.append(_certificate(account, row, corpus, samples))
            del self.open[account]
        return certificates

    def to_json(self) -> dict[str, Any]:
        return {"open": {str(account): [hex64(n) for n in row] for account, row in self.open.items()}} | {
            "holes": self.holes
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Ledger":
        """Rows of older checkpoints are shorter: what they lack is 0."""
        rows = {Account.of(name): [int(n, 16) for n in row] for name, row in body["open"].items()}
        return cls({account: row + [0] * (ROW - len(row)) for account, row in rows.items()}, body["holes"])


def title(account: Account, corpus: Corpus) -> str:
    """An account as a user knows it."""
    return f"epoch {account.epoch}" + (f" of {corpus.name(account.part)}" if corpus.parts > 1 else "")


def check(certificate: dict[str, Any]) -> None:
    """Raises WorkFailed for a certificate that does not hold."""
    if not (certificate["exactly_once"] or certificate.get("at_least_once")):
        part = f" of {certificate['part']}" if "part" in certificate else ""
        by_keys = "the manifest's key sum" if "proof" not in certificate else "each sample once"
        raise WorkFailed(
            f"epoch {certificate['epoch']}{part}: the samples read do not add up to {by_keys} "
            f"(digest {certificate['digest']}, expected {certificate['expected']}): the data changed under the run, "
            "see: vitstream verify DATASET",
            cause="data",
            resumable=False,
        )


def batch_digest(rows: Sequence[Sequence[int]]) -> str:
    """16 hex digits that identify the set of samples of a global batch; holes left out."""
    return hex64(sum(row[READ_SUM] for row in rows))


def pixel_digest(rows: Sequence[Sequence[int]]) -> str:
    """16 hex digits that identify what the model saw of a global batch: pixels and labels of the samples read."""
    return hex64(sum(row[PIXELS] for row in rows))


def place_sum(ids: np.ndarray) -> int:
    """The PLACES of samples, in [0, 2**64). `ids` (int64 [n]) count from the first sample of their part.

    What is counted is where the order sent the reader, so this proves less than keys do: no more than that each sample
    had its turn once. But it can be known beforehand of data whose keys nobody has added up.
    """
    return int(mix64(np.asarray(ids, np.int64).astype(np.uint64)).sum(dtype=np.uint64))


@lru_cache
def all_places(samples: int) -> int:
    """`place_sum` of 0, 1, ..., samples - 1. About a second for 100 million; in blocks, so in little memory."""
    blocks = range(0, samples, _BLOCK)
    return sum(place_sum(np.arange(start, min(start + _BLOCK, samples))) for start in blocks) & MASK64


def _certificate(account: Account, row: list[int], corpus: Corpus, samples: int) -> dict[str, Any]:
    known, distinct = corpus.key_sum(account.part), corpus.part_samples(account.part)
    by_keys = known is not None and not row[KEYLESS]
    digest, expected = row[READ_SUM], ((known or 0) - row[HOLES_SUM]) & MASK64
    if not by_keys:
        digest, expected = row[PLACES], all_places(distinct)
    holds = digest == expected and row[READ] + row[HOLES] == samples
    return {
        "epoch": account.epoch,
        **({"part": corpus.name(account.part)} if corpus.parts > 1 else {}),
        "samples": row[READ],
        "holes": row[HOLES],
        "digest": hex64(digest),
        "expected": hex64(expected),
        **({} if by_keys else {"proof": "places"}),
        **({"repeats": samples - distinct, "at_least_once": holds} if samples > distinct else {}),
        "exactly_once": holds and samples == distinct,
    }
