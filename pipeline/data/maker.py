"""One worker's part of each micro-batch: bytes from its window, pixels into the ring.

What is written for a row depends on the feed, the augmentation and the sample alone.
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xxhash

from pipeline.data.augment import Draws, apply, centre_boxes, draw, training_boxes
from pipeline.data.decode import crop_resize
from pipeline.data.giving_up import GiveUp, never, patience_s
from pipeline.data.keyed import mix64
from pipeline.data.ledger import HOLES, HOLES_SUM, KEYLESS, PIXELS, PLACES, READ, READ_SUM, ROW
from pipeline.data.part import Part
from pipeline.data.read import Reader
from pipeline.data.recipe import Recipe
from pipeline.data.ring import Slot
from pipeline.data.sample import Hole, Sample
from pipeline.data.window import Share, Window
from pipeline.dataset.images import ImageError, read_header
from pipeline.dataset.keys import MASK64
from pipeline.dataset.remote.traffic import Fetched


class Maker:
    """Makes one worker's rows of items, one after the other."""

    def __init__(self, recipe: Recipe, worker: int, workers: int, give_up: GiveUp = never) -> None:
        self.recipe, self.feed = recipe, recipe.feed
        self.share = Share(worker, workers, recipe.feed.rows)
        self.reader = Reader(recipe.corpus, recipe.cache, recipe.retry_s)
        self.window = Window(
            reader=self.reader,
            feed=self.feed,
            share=self.share,
            ahead=recipe.ahead,
            at_once=recipe.at_once,
            room=recipe.room(workers),
            requests=recipe.requests,
            hang_s=patience_s(recipe.retry_s, recipe.cache is not None),
            known_holes=recipe.known_holes,
            give_up=give_up,
        )
        self._fetched = Fetched()
        self._pool = ThreadPoolExecutor(recipe.threads, "vitstream-decode") if recipe.threads > 1 else None

    def make(self, item: int, slot: Slot) -> Part:
        """Fills this worker's rows of a slot of the ring. Raises WorkFailed as `Reader.read`; GaveUp."""
        began = time.perf_counter()
        rows, ids, epochs, found, empty = self.window.take(item)
        taken = time.perf_counter()
        hashes = self._write(slot, rows, ids, epochs, found)
        for row in empty.tolist():
            _blank(slot, row)
        ledger, holes = self._account(item, rows, ids, epochs, found, hashes)
        before, self._fetched = self._fetched, self.reader.fetched
        since = self._fetched.since(before)
        return Part(item, ledger, holes, len(rows), taken - began, time.perf_counter() - taken, since)

    def close(self) -> None:
        """No more items."""
        self.window.close()

    def _write(
        self,
        slot: Slot,
        rows: np.ndarray,
        ids: np.ndarray,
        epochs: np.ndarray,
        found: list[Sample | Hole],
        again: bool = False,
    ) -> list[int]:
        """Decodes all samples into the slot; those that cannot be become holes in `found`. Returns pixel hashes."""
        size, sizes = self.recipe.image_size, [_size(sample) for sample in found]
        boxes, flips, draws = self._draws(ids, epochs, np.array(sizes, np.int64).reshape(-1, 2))

        def decode(n: int) -> int:
            row, sample = int(rows[n]), found[n]
            if isinstance(sample, Sample):
                try:
                    crop_resize(sample.data, sizes[n], boxes[n], size, bool(flips[n]), out=slot.images[row])
                except ImageError as error:
                    if not again:
                        mended, here = [self.reader.again(int(ids[n]), sample, str(error))], slice(n, n + 1)
                        (digest,) = self._write(slot, rows[here], ids[here], epochs[here], mended, again=True)
                        found[n] = mended[0]
                        return digest
                    sample = found[n] = self.reader.hole(int(ids[n]), str(error), sample.key)
            if isinstance(sample, Hole):
                _blank(slot, row)
                return 0
            if draws.steps:
                slot.images[row] = apply(slot.images[row], draws, n)
            slot.set_labels(row, sample.labels)
            slot.weights[row] = 1.0
            return _digest(slot.images[row], slot.labels[row]) if self.recipe.pixel_digest else 0

        numbers: Iterable[int] = range(len(found))
        return list(self._pool.map(decode, numbers) if self._pool and not again else map(decode, numbers))

    def _draws(self, ids: np.ndarray, epochs: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, Draws]:
        """Boxes (int64 [n, 4]), flips (bool [n]) and what else happens to pixels."""
        augment, size = self.recipe.augment, self.recipe.image_size
        if augment is None:
            return centre_boxes(sizes, self.recipe.crop), np.zeros(len(ids), bool), Draws()
        boxes, flips = training_boxes(augment, self.feed.seed, epochs, ids, sizes)
        return boxes, flips, draw(augment, self.feed.seed, epochs, ids, size)

    def _account(
        self,
        item: int,
        rows: np.ndarray,
        ids: np.ndarray,
        epochs: np.ndarray,
        found: list[Sample | Hole],
        pixel_hashes: list[int],
    ) -> tuple[list[list[int]], list[tuple[int, int, Hole]]]:
        """The ledger's rows, and the holes. Guests are accounted for where their slots are."""
        accounts = self.feed.accounts(item)
        number_of = {account: number for number, account in enumerate(accounts)}
        ledger = [[0] * ROW for _ in accounts]
        holes = []
        parts, locals_ = self.feed.parts(ids)
        places = mix64(locals_.astype(np.uint64)).tolist()
        for n in np.flatnonzero(rows < self.feed.batch).tolist():
            account, sample = (int(parts[n]), int(epochs[n])), found[n]
            row = ledger[number_of[account]]
            count, total = (READ, READ_SUM) if isinstance(sample, Sample) else (HOLES, HOLES_SUM)
            row[count] += 1
            row[total] = (row[total] + sample.key_hash) & MASK64
            row[PLACES] = (row[PLACES] + places[n]) & MASK64
            row[PIXELS] = (row[PIXELS] + pixel_hashes[n]) & MASK64
            if isinstance(sample, Hole):
                row[KEYLESS] += not sample.key
                holes.append((*account, sample))
        return ledger, holes


def _size(sample: Sample | Hole) -> tuple[int, int]:
    """(width, height); (1, 1) of what cannot be decoded."""
    if isinstance(sample, Hole):
        return 1, 1
    if sample.width:
        return sample.width, sample.height
    try:  # an index that does not know it, as of MDS folders
        header = read_header(sample.data)
    except ImageError:  # decoding says why
        return 1, 1
    return header.width, header.height


def _digest(pixels: np.ndarray, label: np.ndarray | np.int64) -> int:
    """Of what the model sees of an image: `label` is its number, or uint8 [label_bytes]."""
    seed = xxhash.xxh3_64_intdigest(label) if isinstance(label, np.ndarray) else int(label)
    return xxhash.xxh3_64_intdigest(pixels, seed)


def _blank(slot: Slot, row: int) -> None:
    slot.images[row] = 0
    slot.labels[row], slot.weights[row] = 0, 0.0
