"""300 million samples in 16,384 shards: the start of a rank, wherever in the epoch it goes on.

    python benchmarks/scale.py [--shards 16384] [--photos 146488]

The shards are links to one real shard, with a manifest of their own: what is opened, mapped and read at a start is what
a corpus of that size would have, at the places where it would. Prints a JSON line for each place in the epoch: seconds
from opening the corpus to the first batch of 64 on one of 64 ranks of a global batch of 4,096, imports aside, without
workers and without decoding; and by how many MB the process grew for manifest, order, indexes and what was read.
Then a line for a rank with eight workers, after its first batch from the middle: how many MB more rank, fork server and
workers take together (PSS) than with the eight shards alone, so for nothing but the size of the corpus.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg
from photos import photo

BATCH, RANKS = 4096, 64


def make(folder: Path, shards: int, photos: int) -> None:
    """Tiny photos, sharded by `vitstream shard` into eight shards; links to the largest under all the other names."""
    from pipeline.dataset.manifest import Manifest, Shard, read_manifest, write_manifest

    jpeg = simplejpeg.encode_jpeg(photo(32, 32, 0, 5.0), 85, "RGB", "420")
    for number in range(photos):
        path = folder / "photos" / f"class-{number % 10}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{number}.jpg").write_bytes(jpeg)
    run = [sys.executable, "-m", "pipeline.cli", "shard", str(folder / "photos"), "--out", str(folder / "one")]
    as_it_is = ("--as-is", "--check", "header", "--shard-size", "1TB")
    subprocess.run([*run, *as_it_is], check=True, stdout=subprocess.DEVNULL)
    manifest = read_manifest(folder / "one")
    one = max(manifest.shards, key=lambda shard: shard.samples)
    many = folder / "many" / "shards"
    many.mkdir(parents=True)
    found = []
    for number in range(shards):
        name = f"shard-{number:06d}.tar"
        shard = Shard(name, one.samples, one.bytes, one.xxh3, one.key_sum)
        for suffix in (name, shard.index_name):
            source = one.name if suffix == name else one.index_name
            (many / suffix).symlink_to(folder / "one" / "shards" / source)
        found.append(shard)
    write_manifest(folder / "many", Manifest(manifest.classes, manifest.labels, tuple(found)))


def start(dataset: Path, where: float) -> dict[str, float]:
    """From nothing to the bytes of the first batch."""
    import psutil

    from pipeline.data.corpus import fit_order, open_corpus
    from pipeline.data.feed import TrainFeed
    from pipeline.data.read import Reader
    from pipeline.data.sample import Sample
    from pipeline.data.window import Share, Window

    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    corpus = open_corpus(str(dataset))
    order = fit_order(corpus, BATCH, 0)
    opened = time.perf_counter()
    consumed = int(corpus.samples * where) // BATCH * BATCH
    feed = TrainFeed(order, BATCH, RANKS, 7, 64, consumed, 2 * corpus.samples)
    window = Window(Reader(corpus), feed, Share(0, 1, feed.rows), 0, 4, 10**6, 8, 60.0)
    assert all(isinstance(sample, Sample) for sample in window.take(0).samples)
    ended = time.perf_counter()
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    seconds = {"first_batch_s": round(ended - began, 3), "of_which_manifest_s": round(opened - began, 3)}
    return {"samples": corpus.samples, "at": where} | seconds | {"grown_mb": round(grown, 1)}


def rank_with_workers(dataset: Path) -> dict[str, float]:
    """PSS of a rank and its workers, in MB, and seconds from opening the corpus to the first batch."""
    import psutil
    import torch

    from pipeline.config import Augment
    from pipeline.data import nursery
    from pipeline.data.corpus import fit_order, open_corpus
    from pipeline.data.feed import TrainFeed
    from pipeline.data.loader import Loader
    from pipeline.data.recipe import Recipe

    nursery.start()
    nursery.bear(os.memfd_create("nothing")).connection.close()
    began = time.perf_counter()
    corpus = open_corpus(str(dataset))
    middle = corpus.samples // 2 // BATCH * BATCH
    feed = TrainFeed(fit_order(corpus, BATCH, 0), BATCH, RANKS, 7, 64, middle, corpus.samples)
    recipe = Recipe(corpus, feed, 32, Augment(), 0.875, None, 60.0, 2**30, 20, 5, 8, 1, False)
    batch = next(Loader(recipe, 8, 4, 1, torch.device("cpu")))
    seconds = time.perf_counter() - began
    assert (batch.weights == 1).all()
    time.sleep(2.0)  # the workers look ahead meanwhile
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {"first_batch_s": round(seconds, 3), "pss_mb": sum(p.memory_full_info().pss for p in family) / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=16_384)
    parser.add_argument("--photos", type=int, default=146_488)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        dataset, where = Path(options.child[0]), options.child[1]
        print(json.dumps(rank_with_workers(dataset) if where == "workers" else start(dataset, float(where))))
        sys.stdout.flush()
        os._exit(0)
    scratch = Path(tempfile.mkdtemp())
    try:
        make(scratch, options.shards, options.photos)
        for where in np.linspace(0, 0.999999, 5).tolist():
            print(json.dumps(child(scratch / "many", str(where))), flush=True)
        many, one = child(scratch / "many", "workers"), child(scratch / "one", "workers")
        more = round(many["pss_mb"] - one["pss_mb"], 1)
        print(json.dumps({"workers": 8, "first_batch_s": many["first_batch_s"], "more_mb": more}))
    finally:
        shutil.rmtree(scratch)


def child(dataset: Path, what: str) -> dict[str, float]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", str(dataset), what]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
