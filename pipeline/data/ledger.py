"""The proof of exactly-once: hashes of the keys really read, added up per epoch, against the manifest.

A row of counts is [samples read, sum of their key hashes, holes, sum of theirs], int64, sums modulo 2**64. Rows add,
over samples, workers, ranks and steps, in any order. A batch has one row per epoch that it touches.
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.keys import MASK64, hex64
from pipeline.dataset.manifest import Manifest

ROW = 4  # numbers in a row
READ, READ_SUM, HOLES, HOLES_SUM = range(ROW)


def epochs_touched(consumed: int, count: int, samples: int) -> range:
    """The epochs from which a batch of `count` samples, after `consumed`, reads: two where it crosses an edge."""
    return range(consumed // samples, (consumed + count - 1) // samples + 1)


@dataclass
class Ledger:
    """Running totals of the epochs under way. Small, explicit, part of every checkpoint."""

    open: dict[int, list[int]] = field(default_factory=dict)  # epoch -> row
    holes: int = 0  # over the whole run

    def add(self, first_epoch: int, rows: list[list[int]]) -> None:
        """Adds a global batch's rows, the first of which belongs to `first_epoch`."""
        for epoch, row in enumerate(rows, start=first_epoch):
            total = self.open.get(epoch, [0] * ROW)
            self.open[epoch] = [(a + b) & MASK64 for a, b in zip(total, row, strict=True)]
            self.holes += row[HOLES]

    def certify(self, manifest: Manifest, consumed: int) -> list[dict[str, Any]]:
        """Certificates of the epochs that end at or before `consumed`; they leave the ledger.

        A certificate's `exactly_once` is false where the epoch's sums differ from the manifest's: a sample was read
        twice, missed or replaced (`check` raises for it).

        Raises:
            WorkFailed: the epoch under way has not had as many samples as it must have by now.
        """
        certificates = []
        for epoch, row in sorted(self.open.items()):
            counted = row[READ] + row[HOLES]
            due = min(manifest.samples, consumed - epoch * manifest.samples)
            if due < manifest.samples:
                if counted != due:
                    message = f"epoch {epoch}: {counted:,} samples were accounted for, {due:,} were due"
                    raise WorkFailed(message, cause="data", resumable=False)
                continue
            came_to = (row[READ_SUM] + row[HOLES_SUM]) & MASK64
            certificates.append(
                {
                    "epoch": epoch,
                    "samples": row[READ],
                    "holes": row[HOLES],
                    "digest": hex64(row[READ_SUM]),
                    "expected": hex64(manifest.key_sum - row[HOLES_SUM]),
                    "exactly_once": came_to == manifest.key_sum and counted == manifest.samples,
                }
            )
            del self.open[epoch]
        return certificates

    def to_json(self) -> dict[str, Any]:
        return {"open": {str(epoch): [hex64(n) for n in row] for epoch, row in self.open.items()}, "holes": self.holes}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Ledger":
        rows = {int(epoch): [int(n, 16) for n in row] for epoch, row in body["open"].items()}
        return cls(rows, body["holes"])


def check(certificate: dict[str, Any]) -> None:
    """Raises WorkFailed for a certificate that does not hold."""
    if not certificate["exactly_once"]:
        raise WorkFailed(
            f"epoch {certificate['epoch']}: the samples read do not add up to the manifest's key sum "
            f"(digest {certificate['digest']}, expected {certificate['expected']}): the data changed under the run, "
            "see: vitstream verify DATASET",
            cause="data",
            resumable=False,
        )


def batch_digest(rows: list[list[int]]) -> str:
    """16 hex digits that identify the set of samples of a global batch; holes left out."""
    return hex64(sum(row[READ_SUM] for row in rows))
