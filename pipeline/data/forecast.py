"""What reading in this order will be like, before any of it is read: requests, bytes, memory, and how well it shuffles.

Pure. All is measured on the order itself, by asking it for a few hundred reads from all over an epoch.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.data.corpus import Corpus
from pipeline.data.order import Order, SampleOrder, slot_owners
from pipeline.data.spans import spans

_READS = 512  # looked at
_BATCHES, _SAMPLES = 1024, 2**18
_TIMES, _RANKS, _LANES = 512, 16, 16  # lanes of a rank


@dataclass(frozen=True)
class Requests:
    """How samples come, in the middle of a run."""

    per_sample: float  # requests for each sample that is used
    bytes_each: float  # of a request, on average
    alone: float  # share of the samples that come by a request of their own
    amplification: float  # bytes that are read, over bytes that are used

    def with_room_for(self, share: float) -> "Requests":
        """The same where only this share of the windows has room, and other samples are read one by one."""
        one = self.per_sample * self.bytes_each / self.amplification  # bytes of a sample
        per_sample = share * self.per_sample + (1 - share)
        amplification = share * self.amplification + (1 - share)
        return Requests(per_sample, one * amplification / per_sample, share * self.alone + (1 - share), amplification)


def requests_of(
    corpus: Corpus, order: SampleOrder, batch_size: int, world_size: int, rows: int, workers: int, gap: int
) -> Requests:
    """The requests of a run with this global batch, of micro-batches of so many rows, by so many workers per rank.

    There is room for all windows. A sample brings along what the same worker needs of its chunk, in ranges that join
    samples less than `gap` bytes apart (window.py). Samples are taken to be of their dataset's mean size.
    """
    consumed = np.random.default_rng(0).integers(0, order.samples, _READS)
    epochs, ids = order.at(consumed)
    chunks = list(zip(*(edge.tolist() for edge in order.chunks_of(ids)), strict=True))
    lengths = [stop - first for first, stop in chunks]
    neighbours = np.concatenate([np.arange(first, stop) for first, stop in chunks])
    slots = order.when(np.repeat(epochs, lengths), neighbours) % batch_size
    readers = readers_of_slots(batch_size, world_size, order.lanes, rows, workers)[slots]
    members = np.searchsorted(corpus.starts, ids, side="right") - 1
    sizes = np.array([round(m.bytes / m.manifest.samples) for m in corpus.members])[members]

    requests, read, alone = np.zeros(_READS), np.zeros(_READS), 0
    for n, (of_chunk, sample) in enumerate(zip(np.split(readers, np.cumsum(lengths)[:-1]), ids.tolist(), strict=True)):
        size, inside = int(sizes[n]), sample - chunks[n][0]
        mine = np.flatnonzero(of_chunk == of_chunk[inside])
        found = spans([(int(place) * size, size) for place in mine], gap)
        span = next(s for s in found if s.offset <= inside * size < s.offset + s.length)
        requests[n], read[n] = 1 / len(span.members), span.length / len(span.members)
        alone += len(span.members) == 1
    each = float(read.mean() / requests.mean())
    return Requests(float(requests.mean()), each, alone / _READS, float(read.mean() / sizes.mean()))


def readers_of_slots(batch_size: int, world_size: int, lanes: int, rows: int, workers: int) -> np.ndarray:
    """int64 [batch_size]: who reads each slot, as rank * workers + worker."""
    owners = slot_owners(batch_size, world_size, lanes)
    by_rank = np.argsort(owners, kind="stable")
    first = np.searchsorted(owners[by_rank], np.arange(world_size))
    nth = np.empty(batch_size, np.int64)  # of the rank's slots
    nth[by_rank] = np.arange(batch_size) - first[owners[by_rank]]
    worker_starts = np.arange(workers) * rows // workers
    return owners * workers + np.searchsorted(worker_starts, nth % rows, side="right") - 1


def held(order: Order, world_size: int) -> np.ndarray:
    """float [times, ranks]: the samples in memory of some ranks' windows, at times spread evenly over an epoch.

    A window of S samples of which a share t is used still has S(1 - t) to come. A chunk of C is in memory once one of
    its samples has been used, which for what is to come has happened with a probability of 1 - (1 - t)^C. Neighbouring
    lanes, which are a rank's, are refilled at about the same time: so ranks differ, and each has more at times.
    """
    ranks = np.unique(np.linspace(0, world_size - 1, min(world_size, _RANKS)).astype(np.int64))
    found = np.zeros((_TIMES, len(ranks)))
    if order.chunk == 1:
        return found
    position = (np.arange(_TIMES) + 0.5) * order.samples / _TIMES
    body = position < order.body
    if order.tail:
        found[~body] = order.tail * _to_come((position[~body, None] - order.body) / order.tail, order.chunk)
    if order.body:
        lanes = ((ranks[:, None] + (np.arange(_LANES) + 0.5) / _LANES) * order.lanes / world_size).astype(np.int64)
        chunks = position[body, None, None] / order.lanes / order.chunk  # of each lane, so far
        _, start, size = order.window_at(chunks.astype(np.int64), lanes)
        used = (chunks - start) * order.chunk / size
        found[body] = (size * _to_come(used, order.chunk)).mean(axis=2) * order.lanes
    return found / world_size


def _to_come(used: np.ndarray, chunk: int) -> np.ndarray:
    """Share of a window that is in memory when a share of it has been used."""
    return (1 - used) * (1 - (1 - used) ** chunk)


def shuffle_quality(order: SampleOrder, classes: int, batch_size: int) -> float | None:
    """Chi-square of a global batch's class counts per degree of freedom, if each dataset lay sorted by class.

    The mean over batches from all over an epoch, or of several where one has too few of them to say much. None where
    there is one class, or no whole batch in an epoch.
    """
    steps = order.samples // batch_size
    if classes < 2 or steps == 0:
        return None
    batches = max(4, min(_BATCHES, _SAMPLES // batch_size))
    chosen = np.arange(2 * batches)[1::2] * max(steps, batches) // (2 * batches)
    consumed = chosen[:, None] * batch_size + np.arange(batch_size)
    parts, local = order.parts(order.at(consumed.ravel())[1])
    samples = np.array([order.part_samples(part) for part in range(int(parts.max()) + 1)])
    return chi_square((local * classes // samples[parts]).reshape(consumed.shape), classes)


def chi_square(labels: np.ndarray, classes: int) -> float:
    """The mean over batches of the chi-square of class counts per degree of freedom, all classes being as frequent.

    1 is what chance gives; a batch of one class has its size. A little less than 1 is more even than chance, as what
    has been read does not come again in the epoch.

    Args:
        labels: int64 [batches, batch size].
        classes: two or more.
    """
    batches, batch_size = labels.shape
    _, counts = np.unique(labels + np.arange(batches)[:, None] * classes, return_counts=True)
    squares = (counts**2).sum() * classes / batch_size  # sum of (count - expected)**2 / expected, all batches
    return float((squares - batches * batch_size) / (classes - 1) / batches)
