"""Reading shards beside webdataset and beside a bare loop, in one run: samples/s, images/s, memory, starts.

    python benchmarks/stream.py [--repeat 5] [--photos 4000] [--folder /dev/shm]
    MDS_PYTHON=.venv-mds/bin/python python benchmarks/stream.py        # mosaicml-streaming as well

Makes 4,000 photos of 500 x 375 and the same with a shorter side of 256, as tars of our own (and, for mosaicml, as MDS
by `vitstream convert`); they are warm in the page cache. Every contender is a process of its own and runs once per
round, so that a busy minute hits all. Prints a JSON line per contender and kind: medians, least and most.

    raw        bytes delivered in the consuming process, samples/s, without workers
    decoded    a random crop to 224 x 224 in batches of 64, images/s from the second batch on, 2 worker processes
    first_s    from the loader's making to its first batch, imports aside; resume_s the same at 90 % of the epoch
    memory     proportional set size (PSS) of the process and its children, at its peak, in MB
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

BATCH: Final = 64
SIZE: Final = 224
WORKERS: Final = 2
RESUME_AT: Final = 0.9


# Each contender gives batches; `raw` of bytes (lists), else of pixels. `skip`: samples that were used before.


def vitstream_raw(dataset: Path, skip: int) -> Iterator[int]:
    from pipeline.data.read import Reader
    from pipeline.data.window import Share, Window

    corpus, feed = _corpus_and_feed(dataset, skip)
    window = Window(Reader(corpus), feed, Share(0, 1, BATCH), 8, 0, 10**6, 2, 60.0)
    for item in range(feed.items):
        yield len(window.take(item).samples)


def vitstream_decoded(dataset: Path, skip: int) -> Iterator[int]:
    import torch

    from pipeline.config import Augment
    from pipeline.data.loader import Loader
    from pipeline.data.recipe import Recipe

    corpus, feed = _corpus_and_feed(dataset, skip)
    recipe = Recipe(corpus, feed, SIZE, Augment(), 0.875, None, 60.0, 2**30, 20, 5, 8, 1, False)
    loader = Loader(recipe, WORKERS, 4, 1, torch.device("cpu"))
    for batch in loader:
        yield int((batch.weights > 0).sum())
    loader.close()


def _corpus_and_feed(dataset: Path, skip: int) -> tuple[Any, Any]:
    from pipeline.data.corpus import fit_order, open_corpus
    from pipeline.data.feed import TrainFeed

    corpus = open_corpus(str(dataset))
    return corpus, TrainFeed(fit_order(corpus, BATCH, 0), BATCH, 1, 0, BATCH, skip, corpus.samples)


def webdataset_raw(dataset: Path, skip: int) -> Iterator[int]:
    import webdataset

    urls = sorted(map(str, (dataset / "shards").glob("*.tar")))
    pipeline = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000, seed=0).to_tuple("jpg", "cls")
    return _counted(iter(pipeline), skip)


def webdataset_decoded(dataset: Path, skip: int) -> Iterator[int]:
    import torch
    import webdataset

    urls = sorted(map(str, (dataset / "shards").glob("*.tar")))
    pipeline = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0, workersplitter=webdataset.split_by_worker)
        .shuffle(1000, seed=0)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(_pil_crop, int)
    )
    loader = torch.utils.data.DataLoader(pipeline, batch_size=BATCH, num_workers=WORKERS)
    used = 0
    for images, _ in loader:  # it knows no position: a resume reads what was used again, and throws it away
        used += len(images)
        if used > skip:
            yield len(images)


def _pil_crop(image: Any) -> Any:
    import random

    import numpy as np

    width, height = image.size
    side = max(1, round((width * height * random.uniform(0.05, 1.0)) ** 0.5))
    w, h = min(side, width), min(side, height)
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    return np.array(image.resize((SIZE, SIZE), box=(left, top, left + w, top + h), resample=2, reducing_gap=2.0))


def bare_decoded(dataset: Path, skip: int) -> Iterator[int]:
    """No framework: pread, decode, crop, resize, in as many processes, each of which forgets what it made."""
    from multiprocessing import Pool

    ids = list(range(skip, _samples(dataset)))
    batches = [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]
    with Pool(WORKERS, _bare_open, (str(dataset),)) as pool:
        yield from pool.imap_unordered(_bare_batch, batches)


def _bare_open(dataset: str) -> None:
    global _bare
    from pipeline.data.corpus import open_corpus
    from pipeline.dataset.index import ShardIndex

    corpus = open_corpus(dataset)
    manifest = corpus.members[0].manifest
    folder = Path(dataset) / "shards"
    rows = []
    for number, shard in enumerate(manifest.shards):
        index = ShardIndex(folder / shard.index_name)
        rows += [(number, index.row(position)) for position in range(shard.samples)]
    _bare = (rows, [os.open(folder / shard.name, os.O_RDONLY) for shard in manifest.shards])


def _bare_batch(ids: list[int]) -> int:
    import numpy as np

    from pipeline.config import Augment
    from pipeline.data.augment import training_boxes
    from pipeline.data.decode import crop_resize

    rows, files = _bare
    sizes = np.array([(rows[n][1].width, rows[n][1].height) for n in ids], np.int64)
    boxes, _ = training_boxes(Augment(), 0, np.zeros(len(ids), np.int64), np.array(ids), sizes)
    for n, box in zip(ids, boxes, strict=True):
        shard, row = rows[n]
        crop_resize(os.pread(files[shard], row.size, row.offset), (row.width, row.height), box, SIZE)
    return len(ids)


def mosaic_raw(dataset: Path, skip: int) -> Iterator[int]:
    return _counted((sample["key"] for sample in _mosaic(dataset)), skip)


def mosaic_decoded(dataset: Path, skip: int) -> Iterator[int]:
    from streaming import StreamingDataLoader

    data = _mosaic(dataset)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=_mosaic_batch)
    if skip:
        loader.load_state_dict(data.state_dict(skip, False) | {"batch_size": BATCH})
    return iter(loader)


def _mosaic(dataset: Path) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(dataset.with_name(dataset.name + "-mds")), shuffle=True, batch_size=BATCH)


def _mosaic_batch(samples: list[dict[str, Any]]) -> int:
    return sum(_pil_crop(sample["image"]).shape[0] == SIZE for sample in samples)


def _counted(samples: Iterator[Any], skip: int) -> Iterator[int]:
    for number, _ in enumerate(samples):
        if number >= skip:
            yield 1


def _samples(dataset: Path) -> int:
    return json.loads((dataset / "dataset.json").read_text())["samples"]


CONTENDERS: Final[dict[str, Callable[[Path, int], Iterator[int]]]] = {
    "vitstream raw": vitstream_raw,
    "webdataset raw": webdataset_raw,
    "mosaicml raw": mosaic_raw,
    "vitstream decoded": vitstream_decoded,
    "webdataset decoded": webdataset_decoded,
    "bare loop decoded": bare_decoded,
    "mosaicml decoded": mosaic_decoded,
}


# -- one contender, in a process of its own --------------------------------------------------------------------


def measure(name: str, dataset: Path, skip: int) -> dict[str, float]:
    """Runs one contender over what is left of an epoch."""
    warm = CONTENDERS[name]
    _imports(name)
    memory = Memory()
    began = time.perf_counter()
    batches = warm(dataset, skip)
    counts = [next(batches)]
    first = time.perf_counter()
    counts += list(batches)
    ended = time.perf_counter()
    done = sum(counts[1:])
    return {"per_s": done / (ended - first), "first_s": first - began, "samples": done, "pss_mb": memory.peak()}


def _imports(name: str) -> None:
    """What is imported anyway, before the clock starts."""
    if name.startswith("vitstream"):
        import pipeline.data.loader
    elif name.startswith("webdataset"):
        import webdataset  # noqa: F401
    elif name.startswith("mosaicml"):
        import streaming  # noqa: F401
    else:
        import pipeline.data.corpus
        import pipeline.data.decode  # noqa: F401


class Memory:
    """The peak of this process and its children, looked at ten times a second."""

    def __init__(self) -> None:
        self._peak, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak(self) -> float:
        """MB."""
        self._stop.set()
        self._thread.join()
        return round(self._peak, 1)

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(0.1):
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            self._peak = max(self._peak, sum(map(_pss_mb, family)))


def _pss_mb(process: Any) -> float:
    try:
        return process.memory_full_info().pss / 2**20
    except Exception:  # it has ended
        return 0.0


# -- all of them -----------------------------------------------------------------------------------------------


def make_data(folder: Path, photos: int) -> list[Path]:
    """The same photos as they are, and with a shorter side of 256; as MDS, too, where that can be made."""
    from photos import write_photos

    write_photos(folder, "small", photos)
    found = []
    for name, options in (("photos-500", ("--as-is",)), ("photos-256", ("--size", "256"))):
        out = folder / name
        run = [sys.executable, "-m", "pipeline.cli", "shard", str(folder / "photos"), "--out", str(out)]
        subprocess.run([*run, "--shard-size", "16MB", *options], check=True, stdout=subprocess.DEVNULL)
        if mds := os.environ.get("MDS_PYTHON"):
            convert = [mds, "-m", "pipeline.cli", "convert", str(out), "--to", "mds", "--out", f"{out}-mds"]
            subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
        found.append(out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--child", nargs=3, metavar=("NAME", "DATASET", "SKIP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, dataset, skip = options.child
        print(json.dumps(measure(name, Path(dataset), int(skip))))
        os._exit(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for dataset in make_data(Path(scratch), options.photos):
            compare(dataset, options.repeat)


def compare(dataset: Path, repeat: int) -> None:
    """All contenders, in turn, `repeat` times."""
    names = [name for name in CONTENDERS if "mosaicml" not in name or "MDS_PYTHON" in os.environ]
    skip = int(_samples(dataset) * RESUME_AT) // BATCH * BATCH
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeat):
        for name in names:
            whole = child(name, dataset, 0)
            found[name].append(whole | {"resume_s": child(name, dataset, skip)["first_s"]})
    for name, runs in found.items():
        ours = f"vitstream {name.rpartition(' ')[2]}"
        ratios = [mine["per_s"] / other["per_s"] for mine, other in zip(found[ours], runs, strict=True)]
        print(json.dumps({"kind": dataset.name, "contender": name, "vitstream_over_it": summary(ratios), **rows(runs)}))


def child(name: str, dataset: Path, skip: int) -> dict[str, float]:
    """One run in a process of its own."""
    python = os.environ["MDS_PYTHON"] if name.startswith("mosaicml") else sys.executable
    command = [python, __file__, "--child", name, str(dataset), str(skip)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    return {key: summary([run[key] for run in runs]) for key in ("per_s", "first_s", "resume_s", "pss_mb")}


def summary(numbers: list[float]) -> list[float]:
    """Median, least, most."""
    return [round(n, 3) for n in (statistics.median(numbers), min(numbers), max(numbers))]


if __name__ == "__main__":
    main()
