"""The catalogue and the plan of a synthetic listing: time and memory by number of images.

    python benchmarks/plan.py [--rows 1000000 10000000 30000000] [--where "bytes > 40000"] [--folder /scratch]

Every size runs in a process of its own, so that its peak memory is its own. A row is what an image folder gives:
a path of 35 characters, a class of 1,000, a size. Prints a JSON line per size, and last the time per million rows and
what a straight line through the two largest sizes says of 300 million.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_prep.catalog.classes import resolve
from data_prep.catalog.listing import write_listing
from data_prep.catalog.plan import count_shards, write_rows
from data_prep.catalog.select import catalogue, pick
from data_prep.options import Options
from data_prep.sources.base import COLUMNS, ROWS_PER_BATCH, Source

CLASSES = 1000
MEAN_BYTES = 50_000


@dataclass(frozen=True)
class SyntheticSource(Source):
    """Lists images that do not exist."""

    rows: int
    name: str = "synthetic"

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        for start in range(0, self.rows, ROWS_PER_BATCH):
            numbers = range(start, min(self.rows, start + ROWS_PER_BATCH))
            classes = [f"class-{number * 2_654_435_761 % CLASSES:04d}" for number in numbers]
            paths = [f"{name}/image-{number:014d}.jpg" for name, number in zip(classes, numbers, strict=True)]
            columns = {
                "path": paths,
                "labels": [[name] for name in classes],
                "bytes": [MEAN_BYTES + number % 1000 for number in numbers],
                "file": paths,
                "offset": [0] * len(paths),
            }
            yield pa.RecordBatch.from_pydict(columns, schema=COLUMNS)


def measure(rows: int, where: str | None, folder: Path) -> dict[str, object]:
    """Lists and plans, as `vitstream shard` does, in `folder`."""
    source, options = SyntheticSource(rows), Options(where=where, val_fraction=0.01)
    seconds = {}
    start = time.monotonic()
    write_listing((source,), folder, options.seed)
    seconds["listing"] = time.monotonic() - start
    start = time.monotonic()
    (folder / "plan").mkdir()
    with catalogue(folder) as connection:
        pick(connection, options, None)
        classes = resolve(connection, (source,), None)
        counts = write_rows(connection, folder / "plan", options, classes)
    seconds["plan"] = time.monotonic() - start
    return {
        "rows": rows,
        "planned": sum(counts.values()),
        "shards": {name: count_shards(count, MEAN_BYTES, options.shard_size) for name, count in counts.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_s": round(sum(seconds.values()), 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "disk_gb": round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9, 2),
    }


def main() -> None:
    """Runs every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 30_000_000])
    parser.add_argument("--where")
    parser.add_argument("--folder", type=Path, help="where there is room: about 90 bytes a row")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.rows[0], options.where, options.folder)))
        return
    results = []
    for rows in options.rows:
        folder = Path(tempfile.mkdtemp(prefix="plan-", dir=options.folder))
        try:
            where = ["--where", options.where] if options.where else []
            command = [sys.executable, __file__, "--here", "--rows", str(rows), "--folder", str(folder), *where]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        finally:
            shutil.rmtree(folder)
        results.append(json.loads(done.stdout))
        print(json.dumps(results[-1]), flush=True)
    if len(results) > 1:
        (n0, t0), (n1, t1) = ((r["rows"], r["total_s"]) for r in results[-2:])
        slope = (t1 - t0) / (n1 - n0)
        print(json.dumps({"s_per_million_rows": round(slope * 1e6, 2), "300m_rows_h": round(slope * 300e6 / 3600, 2)}))


if __name__ == "__main__":
    main()
