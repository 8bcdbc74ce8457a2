"""A dataset of ours in litdata's format, with the same bytes: python stream_litdata.py DATASET OUT (for stream.py)."""

import sys
import tarfile
from pathlib import Path
from typing import Any

from litdata import optimize


def sample(place: tuple[str, int, int]) -> dict[str, Any]:
    """The image as it lies in the tar; the label is not looked at."""
    shard, at, size = place
    with Path(shard).open("rb") as file:
        file.seek(at)
        return {"image": file.read(size), "label": 0}


def places(dataset: Path) -> list[tuple[str, int, int]]:
    """Every image's shard, offset and size."""
    found = []
    for shard in sorted(dataset.glob("shards/*.tar")):
        with tarfile.open(shard) as tar:
            found += [(str(shard), m.offset_data, m.size) for m in tar if m.name.endswith(".jpg")]
    return found


if __name__ == "__main__":
    source, out = Path(sys.argv[1]), sys.argv[2]
    optimize(fn=sample, inputs=places(source), output_dir=out, chunk_bytes="16MB", num_workers=1)
