"""Who is compared in stream.py: each gives the sizes of its batches, of one epoch after `skip` samples.

raw        bytes in the consuming process, one process
raw x2     the same from two worker processes
decoded    a random crop, resized to SIZE, in batches of BATCH, from two workers; ours and the bare loop's are mirrored
           or not as well, and of random aspect ratio
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

BATCH: Final = 64
SIZE: Final = 224
WORKERS: Final = 2
Contender = Callable[[Path, int], Iterator[int]]


# -- ours --------------------------------------------------------------------------------------------------------


def vitstream_raw(dataset: Path, skip: int) -> Iterator[int]:
    """The order and the reader, a few batches at a time, without what reads ahead: nobody computes meanwhile."""
    import numpy as np

    from pipeline.data.read import Reader
    from pipeline.dataset.processes import keep_freed_memory

    keep_freed_memory()  # as each worker does
    corpus, feed = _corpus_and_feed(dataset, skip)
    reader = Reader(corpus)
    for planned in np.array_split(np.arange(feed.items), -(-feed.items // 64)):
        wanted = feed.wanted(planned).ids
        for ids in np.array_split(wanted, -(-len(wanted) // 4)):
            yield len(reader.read(ids[ids >= 0].tolist()))


def vitstream_raw_workers(dataset: Path, skip: int) -> Iterator[int]:
    """Two workers' windows. Bytes come as the loader's pixels do: through memory that is shared, a word for each batch.

    The loader itself has no such mode: its workers decode what they read.
    """
    import mmap
    from multiprocessing import get_context
    from multiprocessing.connection import Pipe

    slot, slots, context = 2**24, 4, get_context("fork")
    memory = mmap.mmap(-1, WORKERS * slots * slot)
    pipes = [Pipe() for _ in range(WORKERS)]
    for number, (_, theirs) in enumerate(pipes):
        arguments = (dataset, skip, number, memory, slot, slots, theirs)
        context.Process(target=_write_raw, args=arguments, daemon=True).start()
    _, feed = _corpus_and_feed(dataset, skip)
    for item in range(feed.items):
        images: list[bytes] = []
        for number, (ours, _) in enumerate(pipes):
            at = (number * slots + item % slots) * slot
            for length in json.loads(ours.recv_bytes()):
                images.append(memory[at : at + length])
                at += length
            ours.send_bytes(b"1")
        yield len(images)


def _write_raw(dataset: Path, skip: int, number: int, memory: Any, slot: int, slots: int, connection: Any) -> None:
    window, feed = _window(dataset, skip, number, WORKERS)
    for item in range(feed.items):
        if item >= slots:
            connection.recv_bytes()
        at, lengths = (number * slots + item % slots) * slot, []
        for sample in window.take(item).samples:
            memory[at : at + len(sample.data)] = sample.data
            at += len(sample.data)
            lengths.append(len(sample.data))
        connection.send_bytes(json.dumps(lengths).encode())


def _window(dataset: Path, skip: int, worker: int, workers: int) -> tuple[Any, Any]:
    from pipeline.data.read import Reader
    from pipeline.data.window import Share, Window

    corpus, feed = _corpus_and_feed(dataset, skip)
    return Window(Reader(corpus), feed, Share(worker, workers, BATCH), 20, 5, 10**6, 1, 60.0), feed


def vitstream_decoded(dataset: Path, skip: int) -> Iterator[int]:
    """The loader with two workers of one thread."""
    return _vitstream_decoded(dataset, skip, WORKERS, 1)


def vitstream_threads(dataset: Path, skip: int) -> Iterator[int]:
    """The loader with one worker of two threads."""
    return _vitstream_decoded(dataset, skip, 1, WORKERS)


def _vitstream_decoded(dataset: Path, skip: int, workers: int, threads: int) -> Iterator[int]:
    import torch

    from pipeline.config import Augment
    from pipeline.config import Loader as Defaults
    from pipeline.data.loader import Loader
    from pipeline.data.recipe import Recipe

    corpus, feed = _corpus_and_feed(dataset, skip)
    of = Defaults(prefetch=2, read_ahead=2)  # as DataLoader for a worker; as docs/stream.md says for this node's disk
    recipe = Recipe(
        corpus=corpus,
        feed=feed,
        image_size=SIZE,
        augment=Augment(),
        crop=0.875,
        cache=None,
        retry_s=60.0,
        memory_bytes=2**30,
        ahead=of.read_ahead,
        at_once=of.prefetch + 1,
        requests=of.reads,
        threads=threads,
        pixel_digest=False,
    )
    loader = Loader(recipe, workers, of.prefetch, 1, torch.device("cpu"))
    for batch in loader:
        yield int((batch.weights > 0).sum())
    loader.close()


def _corpus_and_feed(dataset: Path, skip: int) -> tuple[Any, Any]:
    from pipeline.data.corpus import fit_order, open_corpus
    from pipeline.data.feed import TrainFeed

    corpus = open_corpus(str(dataset))
    return corpus, TrainFeed(fit_order(corpus, BATCH, 0), BATCH, 1, 0, BATCH, skip, corpus.samples)


# -- the bare loop: pread, a scaled decode, OpenCV; no framework -------------------------------------------------


def bare_raw(dataset: Path, skip: int) -> Iterator[int]:
    """Indexed pread, in a random order that is made beforehand."""
    import random

    _bare_open(str(dataset))
    rows, files = _bare
    places = rows[skip:]
    random.Random(0).shuffle(places)
    for shard, row in places:
        yield len(os.pread(files[shard], row.size, row.offset)) > 0


def bare_processes(dataset: Path, skip: int) -> Iterator[int]:
    """In two processes, each of which forgets what it made."""
    from multiprocessing import Pool

    with Pool(WORKERS, _bare_open, (str(dataset),)) as pool:
        yield from pool.imap_unordered(_bare_batch, _bare_batches(dataset, skip))


def bare_threads(dataset: Path, skip: int) -> Iterator[int]:
    """In two threads."""
    from concurrent.futures import ThreadPoolExecutor

    _bare_open(str(dataset))
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(_bare_batch, _bare_batches(dataset, skip))


def _bare_batches(dataset: Path, skip: int) -> list[list[int]]:
    ids = list(range(skip, samples_of(dataset)))
    return [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]


def _bare_open(dataset: str) -> None:
    global _bare
    from pipeline.data.corpus import open_corpus
    from pipeline.dataset.index import ShardIndex

    corpus = open_corpus(dataset)
    manifest = corpus.members[0].manifest
    folder = Path(dataset) / "shards"
    rows = []
    for number, shard in enumerate(manifest.shards):
        rows += [(number, row) for row in ShardIndex(folder / shard.index_name).rows(range(shard.samples))]
    _bare = (rows, [os.open(folder / shard.name, os.O_RDONLY) for shard in manifest.shards])


def _bare_batch(ids: list[int]) -> int:
    import numpy as np

    from pipeline.config import Augment
    from pipeline.data.augment import training_boxes
    from pipeline.data.decode import crop_resize

    rows, files = _bare
    sizes = np.array([(rows[n][1].width, rows[n][1].height) for n in ids], np.int64)
    boxes, flips = training_boxes(Augment(), 0, np.zeros(len(ids), np.int64), np.array(ids), sizes)
    batch = np.empty((len(ids), SIZE, SIZE, 3), np.uint8)
    for n, (number, box, flip) in enumerate(zip(ids, boxes, flips.tolist(), strict=True)):
        shard, row = rows[number]
        data = os.pread(files[shard], row.size, row.offset)
        crop_resize(data, (row.width, row.height), box, SIZE, flip, out=batch[n])
    return len(ids)


# -- webdataset, in its usual pipeline ---------------------------------------------------------------------------


def webdataset_raw(dataset: Path, skip: int) -> Iterator[int]:
    return _counted(iter(_webdataset(dataset).to_tuple("jpg", "cls")), skip)


def webdataset_raw_workers(dataset: Path, skip: int) -> Iterator[int]:
    return _torch_batches(_webdataset(dataset).to_tuple("jpg", "cls"), _sizes, skip)


def webdataset_decoded(dataset: Path, skip: int) -> Iterator[int]:
    """A resume reads what was used again, and throws it away: it knows no position."""
    return _torch_batches(
        _webdataset(dataset).decode("pil").to_tuple("jpg", "cls").map_tuple(_pil_crop, int), None, skip
    )


def _webdataset(dataset: Path) -> Any:
    import webdataset

    urls = sorted(map(str, (dataset / "shards").glob("*.tar")))
    split = webdataset.split_by_worker
    return webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0, workersplitter=split).shuffle(1000, seed=0)


# -- litdata -----------------------------------------------------------------------------------------------------


def litdata_raw(dataset: Path, skip: int) -> Iterator[int]:
    return _counted(iter(_litdata(dataset)), skip)


def litdata_raw_workers(dataset: Path, skip: int) -> Iterator[int]:
    return _litdata_batches(dataset, skip, _sizes)


def litdata_decoded(dataset: Path, skip: int) -> Iterator[int]:
    return _litdata_batches(dataset, skip, _pil_batch)


def _litdata(dataset: Path) -> Any:
    from litdata import StreamingDataset

    return StreamingDataset(str(dataset.with_name(dataset.name + "-litdata")), shuffle=True)


def _litdata_batches(dataset: Path, skip: int, collate: Callable[[list[Any]], Any]) -> Iterator[int]:
    from litdata import StreamingDataLoader

    data = _litdata(dataset)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate)
    if skip:
        state = {"num_samples_yielded": skip, "latest_worker_idx": (skip // BATCH - 1) % WORKERS, "current_epoch": 1}
        loader.load_state_dict(state | {"dataset": data.state_dict(skip, WORKERS, BATCH)})
    return map(len, loader)


# -- mosaicml-streaming ------------------------------------------------------------------------------------------


def mosaicml_raw(dataset: Path, skip: int) -> Iterator[int]:
    return _counted(iter(_mosaicml(dataset)), skip)


def mosaicml_raw_workers(dataset: Path, skip: int) -> Iterator[int]:
    return _mosaicml_batches(dataset, skip, _sizes)


def mosaicml_decoded(dataset: Path, skip: int) -> Iterator[int]:
    return _mosaicml_batches(dataset, skip, _pil_batch)


def _mosaicml(dataset: Path) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(dataset.with_name(dataset.name + "-mds")), shuffle=True, batch_size=BATCH)


def _mosaicml_batches(dataset: Path, skip: int, collate: Callable[[list[Any]], Any]) -> Iterator[int]:
    from streaming import StreamingDataLoader

    data = _mosaicml(dataset)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate)
    if skip:
        loader.load_state_dict(data.state_dict(skip, False) | {"batch_size": BATCH})
    return map(len, loader)


# -- what they share ---------------------------------------------------------------------------------------------


def _torch_batches(data: Any, collate: Callable[[list[Any]], Any] | None, skip: int) -> Iterator[int]:
    import torch

    used = 0
    for batch in torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate):
        count = len(batch if collate else batch[0])
        used += count
        if used > skip:
            yield count


def _sizes(samples: list[Any]) -> list[Any]:
    """Bytes as they are: no collating."""
    return samples


def _pil_batch(samples: list[dict[str, Any]]) -> Any:
    import io

    import torch
    from PIL import Image

    images = (
        Image.open(io.BytesIO(sample["image"])) if isinstance(sample["image"], bytes) else sample["image"]
        for sample in samples
    )
    return torch.stack([torch.from_numpy(_pil_crop(image.convert("RGB"))) for image in images])


def _pil_crop(image: Any) -> Any:
    import random

    import numpy as np

    width, height = image.size
    side = max(1, round((width * height * random.uniform(0.05, 1.0)) ** 0.5))
    w, h = min(side, width), min(side, height)
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    return np.array(image.resize((SIZE, SIZE), box=(left, top, left + w, top + h), resample=2, reducing_gap=2.0))


def _counted(samples: Iterator[Any], skip: int) -> Iterator[int]:
    for number, _ in enumerate(samples):
        if number >= skip:
            yield 1


def samples_of(dataset: Path) -> int:
    return json.loads((dataset / "dataset.json").read_text())["samples"]


CONTENDERS: Final[dict[str, Contender]] = {
    "vitstream raw": vitstream_raw,
    "bare loop raw": bare_raw,
    "webdataset raw": webdataset_raw,
    "litdata raw": litdata_raw,
    "mosaicml raw": mosaicml_raw,
    "vitstream raw x2": vitstream_raw_workers,
    "webdataset raw x2": webdataset_raw_workers,
    "litdata raw x2": litdata_raw_workers,
    "mosaicml raw x2": mosaicml_raw_workers,
    "vitstream decoded": vitstream_decoded,
    "vitstream threads decoded": vitstream_threads,
    "bare processes decoded": bare_processes,
    "bare threads decoded": bare_threads,
    "webdataset decoded": webdataset_decoded,
    "litdata decoded": litdata_decoded,
    "mosaicml decoded": mosaicml_decoded,
}
RESUMING: Final = (
    "vitstream decoded",
    "vitstream threads decoded",
    "webdataset decoded",
    "litdata decoded",
    "mosaicml decoded",
)
