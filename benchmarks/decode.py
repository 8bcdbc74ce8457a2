"""Bytes of a JPEG and a random box to 224 x 224 pixels: the loader's way beside others', images/s of one core.

    python benchmarks/decode.py [--cases a b c] [--rounds 7] [--scaling]

Makes its photos itself: (a) shorter side 256, as `vitstream shard` stores them by default, (b) 384, (c) photos of 3
megapixels as they come. Boxes are inception crops of 5 % to 100 % of the area. All contenders are in one process, with
one thread, and take turns within every round; time is the processor's, so that a busy machine hardly shows. Prints a
JSON line per case and contender: `ratio` is our rate over its rate in the same round (median, least and most), `psnr`
how near its pixels are to the whole image decoded, cropped and shrunk by cv2's INTER_AREA.

--scaling: how our way fares with threads and with processes, in wall time, instead.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from typing import Final, NamedTuple

import cv2
import numpy as np
import simplejpeg
import webdataset
from photos import photo
from PIL import Image

from pipeline.config import Augment
from pipeline.data.augment import training_boxes
from pipeline.data.decode import crop_resize

SIZE: Final = 224
QUALITY: Final = 90


class Case(NamedTuple):
    width: int
    height: int
    drawn: int  # width at which the photo is made; then it is shrunk, which sharpens it
    noise: float
    photos: int
    images: int  # of a round


CASES: Final = {
    "a": Case(341, 256, 500, 5.0, 50, 400),
    "b": Case(512, 384, 768, 5.0, 40, 160),
    "c": Case(2048, 1536, 2048, 6.0, 16, 32),
}


class Job(NamedTuple):
    data: bytes
    width: int
    height: int
    box: np.ndarray  # left, top, width, height


@cache
def jobs(case: str) -> list[Job]:
    """The images of a round; equal arguments give equal bytes and boxes."""
    width, height, drawn, noise, photos, images = CASES[case]
    encoded = []
    for seed in range(photos):
        pixels = photo(drawn, drawn * height // width, seed, noise)
        if drawn != width:
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        encoded.append(simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420"))
    sizes = np.tile(np.array([width, height], np.int64), (images, 1))
    boxes, _ = training_boxes(Augment(area=(0.05, 1.0)), 0, np.zeros(images, np.int64), np.arange(images), sizes)
    return [Job(encoded[n % photos], width, height, boxes[n]) for n in range(images)]


# Each contender makes uint8 [SIZE, SIZE, 3] of a job.


def by_vitstream(job: Job) -> np.ndarray:
    return crop_resize(job.data, (job.width, job.height), job.box, SIZE)


def by_pillow(job: Job) -> np.ndarray:
    """What torchvision's RandomResizedCrop does of a file: all of it decoded, then Pillow's bilinear resampling."""
    return _pillow_crop(Image.open(io.BytesIO(job.data)).convert("RGB"), job.box)


def by_pillow_draft(job: Job) -> np.ndarray:
    """The same, with Pillow's way to decode at 1/2, 1/4 or 1/8 where the box allows it."""
    image = Image.open(io.BytesIO(job.data))
    scale = min(1.0, max(SIZE / job.box[2], SIZE / job.box[3]))
    image.draft("RGB", (int(np.ceil(job.width * scale)), int(np.ceil(job.height * scale))))
    return _pillow_crop(image.convert("RGB"), job.box * (image.width / job.width))


def by_simplejpeg(job: Job) -> np.ndarray:
    """The same libraries as ours, used the usual way."""
    return _cv2_crop(simplejpeg.decode_jpeg(job.data), job.box)


def by_webdataset_pil(job: Job) -> np.ndarray:
    """webdataset's .decode("pilrgb"), then Pillow."""
    return _pillow_crop(_decoder("pilrgb")({"__key__": "0", "jpg": job.data})["jpg"], job.box)


def by_webdataset_rgb8(job: Job) -> np.ndarray:
    """webdataset's .decode("rgb8"), then cv2."""
    return _cv2_crop(_decoder("rgb8")({"__key__": "0", "jpg": job.data})["jpg"], job.box)


CONTENDERS: Final[dict[str, Callable[[Job], np.ndarray]]] = {
    "vitstream": by_vitstream,
    "Pillow": by_pillow,
    "Pillow, draft": by_pillow_draft,
    "simplejpeg, cv2": by_simplejpeg,
    "webdataset pilrgb, Pillow": by_webdataset_pil,
    "webdataset rgb8, cv2": by_webdataset_rgb8,
}


@cache
def _decoder(kind: str) -> Callable[[dict], dict]:
    return webdataset.autodecode.Decoder([webdataset.imagehandler(kind)])


def _pillow_crop(image: Image.Image, box: np.ndarray) -> np.ndarray:
    left, top, width, height = box
    corners = (left, top, min(left + width, image.width), min(top + height, image.height))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=corners))


def _cv2_crop(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    left, top, width, height = box
    shrinks = width >= SIZE and height >= SIZE
    crop = pixels[top : top + height, left : left + width]
    return cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def psnr(contender: Callable[[Job], np.ndarray], some: list[Job]) -> float:
    """Mean over some jobs, dB; the same to the bit counts as 60."""
    values = []
    for job in some:
        error = np.square(contender(job).astype(float) - by_simplejpeg(job)).mean()
        values.append(min(60.0, 10 * np.log10(255**2 / error)) if error else 60.0)
    return statistics.mean(values)


def compare(case: str, rounds: int) -> None:
    work = jobs(case)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for round_ in range(rounds + 1):
        for name, contender in CONTENDERS.items():
            began = time.process_time()
            for job in work:
                contender(job)
            if round_:  # the first one warms up
                seconds[name].append(time.process_time() - began)
    ours = seconds["vitstream"]
    for name, theirs in seconds.items():
        ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
        us = statistics.median(theirs) / len(work) * 1e6
        line = {"case": case, "pixels": f"{work[0].width} x {work[0].height}", "contender": name}
        line["kB"] = round(statistics.mean(len(job.data) for job in work) / 1e3, 1)
        line |= {"images_per_s": round(1e6 / us), "us_per_image": round(us)}
        line |= {"ratio": round(statistics.median(ratios), 2)}
        line |= {"ratio_least": round(min(ratios), 2), "ratio_most": round(max(ratios), 2)}
        print(json.dumps(line | {"psnr": round(psnr(CONTENDERS[name], work[:40]), 1)}), flush=True)


def make_all(case: str, seconds: float) -> int:
    """Images made in that time."""
    made, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        by_vitstream(jobs(case)[made % len(jobs(case))])
        made += 1
    return made


def scale(case: str, rounds: int, seconds: float = 2.0) -> None:
    """Rates of 1, 2 and 4 threads of one process, and of as many processes, in turns."""
    jobs(case)  # before the processes fork
    kinds = [(kind, count) for count in (1, 2, 4) for kind in (ThreadPoolExecutor, ProcessPoolExecutor)]
    rates: dict[tuple, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, count in kinds:
            with kind(count) as pool:
                rates[kind, count].append(sum(pool.map(make_all, [case] * count, [seconds] * count)) / seconds)
    for (kind, count), found in rates.items():
        unit = "threads" if kind is ThreadPoolExecutor else "processes"
        print(json.dumps({"case": case, unit: count, "images_per_s": round(statistics.median(found))}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scaling", action="store_true")
    arguments = parser.parse_args()
    for case in arguments.cases:
        (scale if arguments.scaling else compare)(case, arguments.rounds)


if __name__ == "__main__":
    main()
