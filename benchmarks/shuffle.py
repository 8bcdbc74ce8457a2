"""How well batches are mixed where the data lies sorted by class: vitstream, webdataset, mosaicml-streaming.

    python benchmarks/shuffle.py [--samples 1281167] [--classes 1000] [--folder /tmp]
    MDS_PYTHON=.venv-mds/bin/python python benchmarks/shuffle.py        # mosaicml-streaming as well

Makes labels without images, class after class, in 1.3 GB of tars of 1,000 samples and in MDS shards of 580 (photos of
110 KB would fill 64 MB). Prints a JSON line per contender and cluster: the chi-square of a global batch's class counts
per degree of freedom, as `vitstream plan` prints it, 1 being what chance gives.

    vitstream    its order, with default parameters; and of ten times and of 300 million samples
    webdataset   an epoch, read by a stock pipeline per rank: each its own shards, shuffled, then shuffle(1000) or
                 (10000). More workers would not mix more, as a batch comes from one of them
    mosaicml     the epoch that its default (py1e) makes for that cluster, its labels read; and its order of ten times
                 as many samples, in as many more shards
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.data.forecast import chi_square, shuffle_quality
from pipeline.data.order import Order

TAR_SAMPLES: Final = 1000
MDS_SAMPLES: Final = 580
LARGER: Final = 10


@dataclass(frozen=True)
class Setting:
    """What lies in `folder`, and who reads it."""

    folder: Path
    samples: int
    classes: int
    nodes: int
    ranks_per_node: int
    batch: int  # global

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    def label(self, sample: np.ndarray | int) -> Any:
        return sample * self.classes // self.samples


CLUSTERS: Final = ((1, 8, 1024), (8, 8, 4096))  # nodes, ranks of each, global batch


# -- contenders: each gives samples, batches that were looked at, and their chi-square -------------------------


def vitstream(setting: Setting) -> Iterator[dict[str, Any]]:
    for samples in (setting.samples, LARGER * setting.samples, 300_000_000):
        order = Order.fit(samples, setting.batch, 0)
        found = shuffle_quality(order, setting.classes, setting.batch)
        assert found is not None
        yield {"samples": samples, "chi_square": found}


def webdataset_1000(setting: Setting) -> Iterator[dict[str, Any]]:
    return _webdataset(setting, 1000)


def webdataset_10000(setting: Setting) -> Iterator[dict[str, Any]]:
    return _webdataset(setting, 10_000)


def _webdataset(setting: Setting, buffer: int) -> Iterator[dict[str, Any]]:
    import webdataset

    urls = sorted(map(str, (setting.folder / "tars").glob("*.tar")))
    os.environ["WORLD_SIZE"] = str(setting.ranks)
    streams = []
    for rank in range(setting.ranks):
        os.environ["RANK"] = str(rank)
        shards = webdataset.WebDataset(
            urls, shardshuffle=len(urls), nodesplitter=webdataset.split_by_node, seed=rank, empty_check=False
        )
        samples = shards.shuffle(buffer, seed=rank).to_tuple("cls")
        streams.append(np.array([int(label) for (label,) in samples], np.int64))
    each = setting.batch // setting.ranks
    steps = min(map(len, streams)) // each
    batches = np.stack([stream[: steps * each].reshape(steps, each) for stream in streams], axis=1)
    yield _measured(setting.samples, batches.reshape(steps, -1), setting.classes)


def mosaicml(setting: Setting) -> Iterator[dict[str, Any]]:
    from streaming import StreamingDataset
    from streaming.base.batching import generate_work
    from streaming.base.world import World

    world = World(setting.nodes, setting.ranks_per_node, workers_per_rank=8, worker=0)
    folder = setting.folder / "mds"
    for name, times in (("mds", 1), ("mds-larger", LARGER)):
        data = StreamingDataset(
            remote=None if times == 1 else str(setting.folder / name),
            local=str(folder if times == 1 else setting.folder / f"{name}-{setting.nodes}"),
            shuffle=True,
            batch_size=setting.batch // setting.ranks,
        )
        data._resume(world, 0)  # as a run on these nodes begins: its defaults
        work = generate_work(data.batching_method, data, world, 0, 0)  # [nodes, ranks, workers, batches, samples]
        steps = work.transpose(3, 2, 0, 1, 4).reshape(-1, setting.batch)  # a rank takes from its workers in turn
        ids = steps[(steps >= 0).all(axis=1)]
        if times == 1:
            labels = np.array([data[int(sample)]["label"] for sample in ids.ravel()], np.int64).reshape(ids.shape)
        else:
            labels = ids * setting.classes // len(data)
        yield _measured(len(data), labels, setting.classes)


def _measured(samples: int, labels: np.ndarray, classes: int) -> dict[str, Any]:
    return {"samples": samples, "batches": len(labels), "chi_square": chi_square(labels, classes)}


CONTENDERS: Final[dict[str, Callable[[Setting], Iterator[dict[str, Any]]]]] = {
    "vitstream": vitstream,
    "webdataset shuffle(1000)": webdataset_1000,
    "webdataset shuffle(10000)": webdataset_10000,
    "mosaicml py1e": mosaicml,
}


# -- data ------------------------------------------------------------------------------------------------------


def write_tars(setting: Setting) -> None:
    """`setting.folder`/tars: real tars of labels."""
    folder = setting.folder / "tars"
    folder.mkdir()
    for start in range(0, setting.samples, TAR_SAMPLES):
        with tarfile.open(folder / f"{start // TAR_SAMPLES:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in range(start, min(start + TAR_SAMPLES, setting.samples)):
                data = str(setting.label(sample)).encode()
                member = tarfile.TarInfo(f"{sample:09d}.cls")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_mds(setting: Setting) -> None:
    """`setting.folder`/mds: real shards of labels; and /mds-larger, an index of ten times as many that do not exist."""
    from streaming import MDSWriter

    row = 4 + 8  # bytes: where it begins, and the label
    with MDSWriter(out=str(setting.folder / "mds"), columns={"label": "int"}, size_limit=MDS_SAMPLES * row) as out:
        for sample in range(setting.samples):
            out.write({"label": setting.label(sample)})
    index = json.loads((setting.folder / "mds/index.json").read_text())
    shards = []
    for number in range(LARGER * len(index["shards"])):
        shard = index["shards"][number % len(index["shards"])]
        shards.append(shard | {"raw_data": shard["raw_data"] | {"basename": f"shard.{number:06d}.mds"}})
    (setting.folder / "mds-larger").mkdir()
    (setting.folder / "mds-larger/index.json").write_text(json.dumps(index | {"shards": shards}))


# -- all of them -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where there is room for 1.1 KB a sample")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, text = options.child
        fields = json.loads(text)
        setting = Setting(**fields | {"folder": Path(fields["folder"])})
        if what == "write_mds":
            write_mds(setting)
            return
        facts = {"contender": what, "nodes": setting.nodes, "ranks": setting.ranks, "batch": setting.batch}
        for found in CONTENDERS[what](setting):
            print(json.dumps(facts | found | {"chi_square": round(found["chi_square"], 3)}), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="shuffle-", dir=options.folder) as scratch:
        settings = [Setting(Path(scratch), options.samples, options.classes, *cluster) for cluster in CLUSTERS]
        write_tars(settings[0])
        if "MDS_PYTHON" in os.environ:
            child("write_mds", settings[0])
        for setting in settings:
            for name in CONTENDERS:
                if not name.startswith("mosaicml") or "MDS_PYTHON" in os.environ:
                    child(name, setting)


def child(what: str, setting: Setting) -> None:
    """One of them in a process of its own, whose lines go to our standard output."""
    python = os.environ["MDS_PYTHON"] if what in ("write_mds", "mosaicml py1e") else sys.executable
    fields = asdict(setting) | {"folder": str(setting.folder)}
    subprocess.run([python, __file__, "--child", what, json.dumps(fields)], check=True)


if __name__ == "__main__":
    main()
