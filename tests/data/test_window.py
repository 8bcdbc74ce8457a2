"""A storage that does not answer makes holes that name their shard, and holds nobody up twice."""

import threading
from pathlib import Path

import pytest

from pipeline.data.corpus import open_corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.order import Order
from pipeline.data.read import Reader
from pipeline.data.sample import Hole, Sample
from pipeline.data.window import Share, Window
from tests.datasets import make_dataset

pytestmark = pytest.mark.fast

SAMPLES, BATCH = 96, 24


class Stuck(Reader):
    """A reader of which the second request, and every later one, waits for ever."""

    def __init__(self, dataset: Path) -> None:
        super().__init__(open_corpus(str(dataset)))
        self._asked = 0
        self.over = threading.Event()

    def read(self, ids: list[int], at_once: bool = False) -> dict[int, Sample | Hole]:
        with self._lock:
            self._asked += 1
            stuck = self._asked > 1
        if stuck:
            self.over.wait()
        return super().read(ids, at_once)


def test_what_is_not_answered_is_holes_that_name_their_shards(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, SAMPLES, shards=4, size=(16, 16))
    order = Order.fit(SAMPLES, BATCH, seed=0)
    feed = TrainFeed(order, BATCH, 1, 0, BATCH, 0, SAMPLES)
    reader = Stuck(tmp_path)
    window = Window(reader, feed, Share(0, 1, BATCH), ahead=1, at_once=0, room=0, requests=1, hang_s=0.2)
    try:
        taken = [window.take(item) for item in range(feed.items)]
    finally:
        reader.over.set()
        window.close()
    samples = [sample for item in taken for sample in item.samples]
    holes = [sample for sample in samples if isinstance(sample, Hole)]
    assert len(samples) == SAMPLES and 0 < len(holes) < SAMPLES
    starts = manifest.starts
    for hole in holes:
        shard = manifest.shards[int((starts <= hole.id).sum()) - 1]
        assert (hole.shard, hole.key, hole.offset) == (shard.name, "", -1)
        assert hole.cause == "the storage has not answered for 0 s"
