"""`vitstream shard` beside its peers, in one run: packing files as they are, and resizing them to 256 pixels.

    python benchmarks/shard.py --setup-peers --peers-venv /tmp/peers  # once: mosaicml-streaming, litdata, img2dataset
    python benchmarks/shard.py --peers-venv /tmp/peers --folder /dev/shm [--repeat 5] [--processes 2]

Makes its photos itself: 500 x 375 of about 50 KB, and 3 megapixels of about 1 MB. Every contender is a process of its
own and runs once per round, so that a busy minute hits all of them. What starting it takes, interpreter, imports and
workers, is measured by a run over a few photos and subtracted; `with_start` has it in. Rates are medians. Prints a
JSON line per contender, then a table.

--folder should be in memory: we flush every shard to the disk before we call it done, and no peer does.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Final

from photos import listed, write_photos

SIZE: Final = 256
QUALITY: Final = 90
FEW: Final = 300  # of the run that measures the start; enough to start all workers
PEERS: Final = ("mosaicml-streaming==0.13.0", "litdata==0.2.76", "img2dataset==1.47.0", "simplejpeg>=1.8,<2")


# Each contender takes the photos' folder, an output folder, and a number of processes.


def run_vitstream(photos: Path, out: Path, processes: int, *options: str) -> None:
    """The command line, as a user has it."""
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "shard",
        str(photos / "photos"),
        "--out",
        str(out / "data"),
        "--json",
    ]
    subprocess.run([*command, "--workers", str(processes), *options], check=True, stdout=subprocess.DEVNULL)


def run_gnu_tar(photos: Path, out: Path, processes: int) -> None:
    """`processes` tars at the same time, each of its part of the list."""
    lines = (photos / "files.txt").read_text().splitlines(keepends=True)
    pairs = [lines[i : i + 2] for i in range(0, len(lines), 2)]
    running = []
    for part in range(processes):
        names = out / f"{part}.txt"
        names.write_text("".join(line for pair in pairs[part::processes] for line in pair))
        running.append(subprocess.Popen(["tar", "-cf", out / f"{part}.tar", "-C", photos, "-T", names]))
    if any(process.wait() for process in running):
        raise RuntimeError("tar failed")


def run_webdataset(photos: Path, out: Path, processes: int, **options: object) -> None:
    """ShardWriter, which is one process."""
    import webdataset

    with webdataset.ShardWriter(str(out / "%06d.tar"), maxsize=1e8, verbose=0, **options) as writer:
        for path, label in listed(photos):
            writer.write({"__key__": Path(path).stem, "jpg": Path(path).read_bytes(), "cls": label})


def run_mds(photos: Path, out: Path, processes: int) -> None:
    """mosaicml-streaming's MDSWriter, which is one process."""
    from streaming import MDSWriter

    with MDSWriter(out=str(out / "mds"), columns={"image": "bytes", "label": "int"}, size_limit=10**8) as writer:
        for path, label in listed(photos):
            writer.write({"image": Path(path).read_bytes(), "label": label})


def run_litdata(photos: Path, out: Path, processes: int, size: int | None = None) -> None:
    """litdata's optimize."""
    from litdata import optimize

    function = partial(_litdata_sample, size=size)
    optimize(function, listed(photos), str(out / "litdata"), chunk_bytes="100MB", num_workers=processes, verbose=False)


def run_img2dataset(photos: Path, out: Path, processes: int) -> None:
    """img2dataset, from file:// URLs: no network in the way."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from img2dataset import download

    files = listed(photos)
    columns = {"url": [f"file://{path}" for path, _ in files], "label": [label for _, label in files]}
    pq.write_table(pa.table(columns), out / "urls.parquet")
    download(
        url_list=str(out / "urls.parquet"),
        input_format="parquet",
        url_col="url",
        save_additional_columns=["label"],
        output_folder=str(out / "img2dataset"),
        output_format="webdataset",
        image_size=SIZE,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=QUALITY,
        processes_count=processes,
        thread_count=16,
        number_sample_per_shard=max(1, min(1000, len(files) // (2 * processes))),
    )


def run_bare(photos: Path, out: Path, processes: int, function: Callable[[str], int]) -> None:
    """Decode, resize, encode, forget."""
    with Pool(processes) as pool:
        for _ in pool.imap_unordered(function, [path for path, _ in listed(photos)], chunksize=16):
            pass


def _litdata_sample(item: tuple[str, int], size: int | None) -> dict:
    path, label = item
    data = Path(path).read_bytes()
    if size is not None:
        import io

        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            ratio = size / min(image.size)
            image.draft("RGB", (round(image.width * ratio), round(image.height * ratio)))
            ratio = min(1, size / min(image.size))
            shape = (round(image.width * ratio), round(image.height * ratio))
            small = image.convert("RGB").resize(shape, Image.Resampling.BOX)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY)
        data = buffer.getvalue()
    return {"image": data, "label": label}


def bare_usual(path: str) -> int:
    """The arrangement in use elsewhere: simplejpeg's own choice of scale, cv2's INTER_AREA."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    data = Path(path).read_bytes()
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    ratio = SIZE / min(height, width)
    shape = (round(width * ratio), round(height * ratio))
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=shape[0], min_height=shape[1])
    small = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
    return len(simplejpeg.encode_jpeg(small, QUALITY, "RGB", "420"))


def bare_fastest(path: str) -> int:
    """The fastest we know, and what vitstream does: scales with vector code only, 2 x 2 means of linear samples."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    data = Path(path).read_bytes()
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    shorter = min(height, width)
    eighths = next(k for k in (1, 2, 4, 8) if shorter * k >= 8 * SIZE)
    pixels = simplejpeg.decode_jpeg(
        data, "RGB", min_width=-(-width * eighths // 8), min_height=-(-height * eighths // 8)
    )
    shape = (round(width * SIZE / shorter), round(height * SIZE / shorter))
    double = cv2.resize(pixels, (2 * shape[0], 2 * shape[1]), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(double, shape, interpolation=cv2.INTER_AREA)
    return len(simplejpeg.encode_jpeg(small, QUALITY, "RGB", "420"))


PACKING: Final[dict[str, Callable[..., None]]] = {
    "GNU tar": lambda photos, out, _: run_gnu_tar(photos, out, 1),
    "GNU tar, one per core": run_gnu_tar,
    "vitstream --check header": lambda *a: run_vitstream(*a, "--as-is", "--check", "header"),
    "vitstream": lambda *a: run_vitstream(*a, "--as-is"),
    "ShardWriter": run_webdataset,
    "ShardWriter, mtime=0": partial(run_webdataset, mtime=0),
    "MDSWriter": run_mds,
    "litdata": run_litdata,
}
RESIZING: Final[dict[str, Callable[..., None]]] = {
    "bare loop": lambda *a: run_bare(*a, bare_fastest),
    "bare loop, INTER_AREA": lambda *a: run_bare(*a, bare_usual),
    "vitstream": lambda *a: run_vitstream(*a, "--size", str(SIZE), "--quality", str(QUALITY)),
    "img2dataset": run_img2dataset,
    "litdata": partial(run_litdata, size=SIZE),
}
JOBS: Final = {"pack": PACKING, "resize": RESIZING}
OF_PEERS: Final = ("MDSWriter", "litdata", "img2dataset")  # in an environment of their own


def measure(python: str, job: str, name: str, photos: Path, scratch: Path, processes: int) -> tuple[float, float, int]:
    """One contender's run over one folder, in a process of its own: seconds, processor seconds, bytes written."""
    out = Path(tempfile.mkdtemp(prefix="out-", dir=scratch))
    command = [python, __file__, "--contender", job, name, str(photos), str(out), str(processes)]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "TMPDIR": str(scratch)}
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-3000:]}")
    return seconds, cpu, written


def compare(options: argparse.Namespace, job: str, kind: str, count: int, scratch: Path) -> Iterator[dict[str, object]]:
    """All contenders of one job on one kind of photos, in rounds."""
    folders = {count: scratch / f"{kind}-{count}", FEW: scratch / f"{kind}-few"}
    for number, folder in folders.items():
        if not folder.exists():
            write_photos(folder, kind, number)
    names = [name for name in JOBS[job] if not options.only or name in options.only]
    if options.peers_venv is None:
        names = [name for name in names if name not in OF_PEERS]
    runs: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    for _ in range(options.repeat):
        for name in names:
            python = str(options.peers_venv / "bin/python") if name in OF_PEERS else sys.executable
            for number, folder in reversed(folders.items()):
                run = measure(python, job, name, folder, scratch, options.processes)
                runs.setdefault((name, number), []).append(run)
    for name in names:
        whole, start = ([statistics.median(column) for column in zip(*runs[name, n], strict=True)] for n in folders)
        yield {
            "job": job,
            "photos": kind,
            "contender": name,
            "images_per_s": round((count - FEW) / max(whole[0] - start[0], 1e-9)),
            "with_start": round(count / whole[0]),
            "start_s": round(start[0], 2),
            "cpu_us_per_image": round((whole[1] - start[1]) / (count - FEW) * 1e6),
            "mb_written": round(whole[2] / 1e6, 1),
            "seconds": [round(run[0], 2) for run in runs[name, count]],
        }


def table(results: list[dict[str, object]]) -> str:
    """A line per contender; of every job and kind, the rate in relation to vitstream's."""
    lines = []
    for job, kind in dict.fromkeys((row["job"], row["photos"]) for row in results):
        rows = [row for row in results if (row["job"], row["photos"]) == (job, kind)]
        ours = next((row["images_per_s"] for row in rows if str(row["contender"]).startswith("vitstream")), None)
        lines += [
            "",
            f"{job}, {kind} photos: images/s (with start); processor time of an image; vitstream's rate over this one",
        ]
        for row in rows:
            times = f"{ours / row['images_per_s']:6.2f}x" if ours else ""
            rate = f"{row['images_per_s']:8,} ({row['with_start']:,})"
            lines.append(f"  {row['contender']:26} {rate:18} {row['cpu_us_per_image']:8,} us {times}")
    return "\n".join(lines)


def set_up_peers(venv: Path) -> None:
    """An environment with the peers. mosaicml-streaming imports two names of torchvision, whose wheels need a CUDA
    torch: a stand-in with these two takes its place."""
    python = str(venv / "bin/python")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    for packages in (PEERS[:2], (*PEERS[2:], "numpy<2.2")):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    (package,) = venv.glob("lib/python*/site-packages")
    (package / "torchvision/transforms").mkdir(parents=True)
    (package / "torchvision/__init__.py").write_text("")
    (package / "torchvision/transforms/__init__.py").write_text("")
    (package / "torchvision/datasets.py").write_text("class VisionDataset: ...\n")
    (package / "torchvision/transforms/functional.py").write_text("def to_tensor(picture): ...\n")
    subprocess.run([python, "-c", "import img2dataset, litdata, streaming"], check=True)


def main() -> None:
    """Measures, or is a contender itself."""
    if sys.argv[1:2] == ["--contender"]:
        job, name, photos, out, processes = sys.argv[2:]
        JOBS[job][name](Path(photos), Path(out), int(processes))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup-peers", action="store_true", help="make --peers-venv, and end")
    parser.add_argument("--peers-venv", type=Path, help="without it, only what runs in this environment")
    parser.add_argument("--folder", type=Path, help="for photos and output; 6 GB")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--small", type=int, default=12_000, help="photos of 500 x 375")
    parser.add_argument("--large", type=int, default=1500, help="photos of 3 megapixels, 1 MB")
    parser.add_argument("--light", type=int, default=1500, help="photos of 3 megapixels, half as many bytes")
    parser.add_argument("--job", choices=JOBS, action="append", help="default: all")
    parser.add_argument("--only", action="append", help="contenders; default: all")
    options = parser.parse_args()
    if options.setup_peers:
        set_up_peers(options.peers_venv)
        return
    scratch = Path(tempfile.mkdtemp(prefix="shard-benchmark-", dir=options.folder))
    try:
        results = []
        for job in options.job or JOBS:
            for kind, count in (("small", options.small), ("large", options.large), ("light", options.light)):
                for row in compare(options, job, kind, count, scratch) if count else ():
                    results.append(row)
                    print(json.dumps(row), flush=True)
        print(table(results))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
