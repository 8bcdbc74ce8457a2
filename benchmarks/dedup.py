"""De-duplication: images hashed per second, and the choice among synthetic hashes, by number of images.

    python benchmarks/dedup.py [--images 1000000 10000000 30000000] [--distance 4] [--photos 200]

Every size runs in a process of its own, so that its peak memory is its own. Of the images, which never existed, 2 % are
equal to another, 3 % differ from another in 1 to 6 bits, and 0.1 % are flat and equal; the other hashes are random with
32 bits set, as perceptual hashes have. Against an evaluation set of 50,000, of which 1,000 are near images of the
corpus. Prints a JSON line per size, before them one of hashing photos of 500 x 375 and of 3 megapixels in one process,
and last what a straight line through the two largest sizes says of 300 million, for which more tables are used.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg

from data_prep.dedup.hashes import FLAT, HASHED, Hashes, hash_image, one_thread
from data_prep.dedup.near import blocks_for
from data_prep.dedup.select import select
from pipeline.dataset.images import MAX_PIXELS, decode, read_header

EVALUATION, NEAR_EVALUATION = 50_000, 1_000
RUNS: dict[str, Callable[[bytes], object]] = {
    "decode": lambda data: decode(data, read_header(data)),
    "exact": lambda data: hash_image(data, MAX_PIXELS, exact_only=True),
    "near": lambda data: hash_image(data, MAX_PIXELS, exact_only=False),
}


def patterns(count: int, rng: np.random.Generator) -> np.ndarray:
    """uint64 [count]: random, with 32 of 64 bits set."""
    found = []
    for start in range(0, count, 1 << 16):
        size = min(1 << 16, count - start)
        places = np.argpartition(rng.random((size, 64), np.float32), 32, axis=1)[:, :32].astype(np.uint64)
        found.append(np.bitwise_or.reduce(np.uint64(1) << places, axis=1))
    return np.concatenate(found)


def nudged(hashes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same but for 1 to 6 bits."""
    for number in range(6):
        flip = rng.random(len(hashes)) < (1.0 if number == 0 else 0.5)
        bits = np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64)
        hashes = np.where(flip, hashes ^ bits, hashes)
    return hashes


def corpus(count: int, rng: np.random.Generator) -> Hashes:
    """Synthetic hashes."""
    pattern = patterns(count, rng)
    equal, near, flat = count // 50, count * 3 // 100, count // 1000
    pixels = rng.integers(0, 2**64, (3, count), np.uint64)
    for column in (pattern, *pixels):
        column[:equal] = column[equal : 2 * equal]
    pattern[2 * equal : 2 * equal + near] = nudged(pattern[-near:], rng)
    state = np.full(count, HASHED, np.uint8)
    state[-flat:] = FLAT
    pattern[-flat:] = 0
    pixels[:, -flat:] = 7
    size = rng.integers(20_000, 200_000, count, np.uint32)
    area = rng.integers(100_000, 1_000_000, count, np.uint32)
    for column in (size, area):
        column[:equal] = column[equal : 2 * equal]
        column[-flat:] = 100
    keys = rng.integers(0, 2**64, count, np.uint64)
    return Hashes(keys, pixels[2], size, pixels[0], pixels[1], area, pattern, state).take(rng.permutation(count))


def measure(count: int, distance: int) -> dict[str, object]:
    """Chooses among so many."""
    rng = np.random.default_rng(count)
    images, evaluation = corpus(count, rng), corpus(EVALUATION, rng)
    evaluation.pattern[:NEAR_EVALUATION] = nudged(images.pattern[:NEAR_EVALUATION], rng)
    held = sum(column.nbytes for column in vars(images).values())
    start, start_cpu = time.monotonic(), time.process_time()
    selection = select(images, [evaluation], distance)
    seconds, cpu = time.monotonic() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "images": count,
        "distance": distance,
        "blocks": blocks_for(count, count, distance),
        "dropped": {"within": len(selection.within.dropped), "against": len(selection.against[0].dropped)},
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu, 1),
        "peak_rss_gb": round(peak / 1e9, 2),
        "hash_bytes_per_image": round(held / count, 1),
        "peak_bytes_per_image": round(peak / count, 1),
    }


def hashing(photos: int) -> dict[str, object]:
    """Images per second in one process: what `dedup` does with each, and the bare decoding of it."""
    one_thread()
    rng, result = np.random.default_rng(0), {}
    for name, (width, height), count in (("500x375", (500, 375), photos), ("2048x1536", (2048, 1536), photos // 10)):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        data = simplejpeg.encode_jpeg(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), quality=85)
        for what, run in RUNS.items():
            start = time.monotonic()
            for _ in range(count):
                run(data)
            result[f"{name} {what}"] = round(count / (time.monotonic() - start))
    return {"images_per_s": result}


def main() -> None:
    """Runs every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000, 10_000_000, 30_000_000])
    parser.add_argument("--distance", type=int, default=4)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.images[0], options.distance)))
        return
    print(json.dumps(hashing(options.photos)), flush=True)
    results = []
    for count in options.images:
        command = [sys.executable, __file__, "--here", "--images", str(count), "--distance", str(options.distance)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout))
        print(json.dumps(results[-1]), flush=True)
    if len(results) > 1:
        (n0, t0), (n1, t1) = ((r["images"], r["cpu_s"]) for r in results[-2:])
        slope = (t1 - t0) / (n1 - n0)
        print(json.dumps({"cpu_s_per_million": round(slope * 1e6, 2), "300m_cpu_h": round(slope * 300e6 / 3600, 2)}))


if __name__ == "__main__":
    main()
