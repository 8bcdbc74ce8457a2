"""Reading shards beside webdataset, litdata, mosaicml-streaming and a bare loop, in one run.

    python benchmarks/stream.py [--repeat 5] [--photos 4000] [--folder /dev/shm]
    LITDATA_PYTHON=lit/bin/python MDS_PYTHON=.venv-mds/bin/python python benchmarks/stream.py    # all of them

Makes 4,000 photos of 500 x 375, the same with a shorter side of 256, and 1,200 of 2 megapixels, as tars of our own,
and of the same bytes what the peers want (litdata and mosaicml need environments of their own, with torch in them). It
is warm in the page cache. Every contender is a process of its own and runs once per round, so that a busy minute hits
all. Prints a JSON line per contender and kind: medians, least and most; and our rate over the contender's, round by
round.

    per_s      from the 513th sample of an epoch on
    raw        bytes delivered in the consuming process, samples/s, in one process; x2: from two worker processes
    decoded    a random crop to 224 x 224 in batches of 64, images/s, two workers
    first_s    from the loader's making to its first batch, imports aside; resume_s the same at 90 % of the epoch
    pss_mb     proportional set size of the process and its children, at its peak
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
from pathlib import Path
from typing import Any, Final

from stream_contenders import BATCH, CONTENDERS, RESUMING, samples_of

RESUME_AT: Final = 0.9
WARM_SAMPLES: Final = 512  # before the clock of rates starts: buffers fill, and some hand out several batches at once
PYTHONS: Final = {"litdata": "LITDATA_PYTHON", "mosaicml": "MDS_PYTHON"}  # where each one's environment is named
KINDS: Final = {  # of photos.py; how many of the photos; options of `shard`
    "photos-500": ("small", 1.0, ("--as-is",)),
    "photos-256": ("small", 1.0, ("--size", "256")),
    "photos-2mp": ("two", 0.3, ("--as-is",)),
}


# -- one contender, in a process of its own --------------------------------------------------------------------


def measure(name: str, dataset: Path, skip: int) -> dict[str, float]:
    """Runs one contender over what is left of an epoch."""
    _imports(name)
    memory = Memory()
    began = time.perf_counter()
    batches = CONTENDERS[name](dataset, skip)
    warm = next(batches)
    first = time.perf_counter()
    while warm < (0 if skip else WARM_SAMPLES):
        warm += next(batches)
    warmed = time.perf_counter()
    done = sum(batches)
    rate = done / (time.perf_counter() - warmed)
    return {"per_s": rate, "first_s": first - began, "samples": done, "pss_mb": memory.peak()}


def _imports(name: str) -> None:
    """What is imported anyway, before the clock starts. In train, too, the fork server is there before the loader."""
    if name.startswith("vitstream"):
        from pipeline.data import nursery

        nursery.start()
        import pipeline.data.loader

        nursery.bear(os.memfd_create("nothing")).connection.close()  # it has imported, too
    elif name.startswith("webdataset"):
        import webdataset  # noqa: F401
    elif name.startswith("litdata"):
        import litdata  # noqa: F401
    elif name.startswith("mosaicml"):
        import streaming  # noqa: F401
    else:
        import pipeline.data.corpus
        import pipeline.data.decode  # noqa: F401


class Memory:
    """The peak of this process and its children, looked at three times a second: looking takes milliseconds."""

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

        while not self._stop.wait(0.3):
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            self._peak = max(self._peak, sum(map(_pss_mb, family)))


def _pss_mb(process: Any) -> float:
    try:
        return process.memory_full_info().pss / 2**20
    except Exception:  # it has ended
        return 0.0


# -- all of them -----------------------------------------------------------------------------------------------


def make_data(folder: Path, kind: str, photos: int) -> Path:
    """Photos as a dataset; and as what the peers that are here want."""
    from photos import write_photos

    source, share, options = KINDS[kind]
    write_photos(folder / kind / "source", source, round(photos * share))
    out = folder / kind / "dataset"
    cli = ["-m", "pipeline.cli"]
    run = [
        sys.executable,
        *cli,
        "shard",
        str(folder / kind / "source/photos"),
        "--out",
        str(out),
        "--shard-size",
        "16MB",
    ]
    subprocess.run([*run, *options], check=True, stdout=subprocess.DEVNULL)
    if python := os.environ.get("MDS_PYTHON"):
        convert = [python, *cli, "convert", str(out), "--to", "mds", "--out", f"{out}-mds"]
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    if python := os.environ.get("LITDATA_PYTHON"):
        script = [python, str(Path(__file__).with_name("stream_litdata.py")), str(out), f"{out}-litdata"]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--child", nargs=3, metavar=("NAME", "DATASET", "SKIP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, dataset, skip = options.child
        print(json.dumps(measure(name, Path(dataset), int(skip))))
        os._exit(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for kind in options.kinds.split(","):
            compare(kind, make_data(Path(scratch), kind, options.photos), options.repeat)


def compare(kind: str, dataset: Path, repeat: int) -> None:
    """All contenders, in turn, `repeat` times."""
    here = [name for name in CONTENDERS if PYTHONS.get(name.split()[0], "PATH") in os.environ]
    names = [name for name in here if kind != "photos-2mp" or "raw" not in name]
    skip = int(samples_of(dataset) * RESUME_AT) // BATCH * BATCH
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeat):
        for name in names:
            found[name].append(child(name, dataset, 0))
            if name in RESUMING:
                found[name][-1]["resume_s"] = child(name, dataset, skip)["first_s"]
    for name, runs in found.items():
        ours = found[f"vitstream {name[name.index('raw') :] if 'raw' in name else 'decoded'}"]
        ratios = [mine["per_s"] / other["per_s"] for mine, other in zip(ours, runs, strict=True)]
        print(
            json.dumps({"kind": kind, "contender": name, "vitstream_over_it": summary(ratios), **rows(runs)}),
            flush=True,
        )


def child(name: str, dataset: Path, skip: int) -> dict[str, float]:
    """One run in a process of its own."""
    python = os.environ.get(PYTHONS.get(name.split()[0], ""), sys.executable)
    command = [python, __file__, "--child", name, str(dataset), str(skip)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    keys = [key for key in ("per_s", "first_s", "resume_s", "pss_mb") if key in runs[0]]
    return {key: summary([run[key] for run in runs]) for key in keys}


def summary(numbers: list[float]) -> list[float]:
    """Median, least, most."""
    return [round(n, 3) for n in (statistics.median(numbers), min(numbers), max(numbers))]


if __name__ == "__main__":
    main()
