"""A process of a run, for test_cache.py: reads shards of a dataset whenever it is told to, and says what it has read.

python -m tests.data.cache_reader '[PLACE, [[NAME, BYTES, XXH3], ...], FOLDER, LIMIT, [NUMBER, ...], PIECE_BYTES]'
"""

import json
import sys
from pathlib import Path

import xxhash

from pipeline.config import Cache
from pipeline.data import fetch
from pipeline.data.storage import Storage
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, Shard


def manifest_of(shards: list[tuple[str, int, str]]) -> Manifest:
    """One whose shards are these files; there are no indexes."""
    return Manifest(("x",), "single", tuple(Shard(name, 1, size, xxh3, "0" * 16) for name, size, xxh3 in shards))


def main() -> None:
    place, shards, folder, limit, numbers, fetch.PIECE_BYTES = json.loads(sys.argv[1])
    storage = Storage(Location.of(place), manifest_of(shards), Cache(dir=Path(folder), bytes=limit), retry_s=20)
    print("ready", flush=True)
    held = []  # the files stay open
    for _ in sys.stdin:
        held += [storage.open(number) for number in numbers]
        found = [xxhash.xxh3_64_hexdigest(blob.read(0, 10**9)) for blob in held[-len(numbers) :]]
        print(json.dumps([found, storage.traffic.bytes, storage.traffic.hedges]), flush=True)


if __name__ == "__main__":
    main()
