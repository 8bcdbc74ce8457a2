"""How fast a GPU, or all of a machine's, trains ViT-B/16, L/16 and H/14: img/s, MFU, memory, waiting for data.

    python benchmarks/gpu.py [--models vit-h/14 ...] [--cases tars torch ...] [--gpus N] [--small]

Needs the packages and nothing else (the Trainer wants accelerate): photos are drawn, and sharded by `vitstream shard`.
Every case is a process of its own (with several GPUs, one for each), takes the largest micro-batch that fits, a power
of two, and prints one JSON line when it is done; a table comes last. --small runs the same on a CPU, with a model of no
use, to see that it works.

    tars          `vitstream train` as a user starts it: compiled blocks, ZeRO 1, 256 tokens, from real tars
    synthetic     the same steps on one batch that lies on the device: what reading and decoding cost is the difference
    eager         synthetic, blocks not compiled
    recomputed    synthetic, every block recomputed in the backward pass
    cls           synthetic, with a class token: 257 tokens instead of 256 (197 and 196)
    zero2, zero3  synthetic; at stage 3 nothing is compiled
    torch         a hand-written loop: transformers' ViT, autocast to bf16, torch.compile, fused AdamW, DDP
    trainer       transformers' ViT under its Trainer: bf16, torch_compile, fused AdamW
    trainer-eager the same, not compiled
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
import yaml

HERE: Final = Path(__file__).parent
OURS: Final = ("tars", "synthetic", "eager", "recomputed", "cls", "zero2", "zero3")
THEIRS: Final = ("torch", "trainer", "trainer-eager")
CASES: Final = OURS + THEIRS
MODELS: Final = ("vit-h/14", "vit-l/16", "vit-b/16")
MOST: Final = {"vit-h/14": 256, "vit-l/16": 512, "vit-b/16": 1024}  # images of a micro-batch that are tried first
OUT_OF_MEMORY: Final = 17  # exit code of a case
CLASSES: Final = 1000
WARM_UP, FLUSH = 6, 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--gpus", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--seconds", type=float, default=10.0, help="that each case is measured for, at least")
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--small", action="store_true", help="on a CPU, to see that it works")
    parser.add_argument("--until", type=float, default=float("inf"), help="seconds after which no case is begun")
    given, began, rows = parser.parse_args(), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="vitstream-gpu-") as folder:
        data = make_data(Path(folder), given.photos) if "tars" in given.cases else None
        for model in ["vit-ti/16"] if given.small else given.models:
            for case in given.cases:
                if time.monotonic() - began > given.until:
                    print(json.dumps({"model": model, "case": case, "skipped": "no time left"}), flush=True)
                    continue
                rows.append(measured(case, model, given, Path(folder), data))
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


def measured(case: str, model: str, given: argparse.Namespace, folder: Path, data: Path | None) -> dict[str, Any]:
    """One case with the largest micro-batch that fits."""
    images, began = (8 if given.small else MOST.get(model, 256)), time.monotonic()
    if case in THEIRS and not given.small:
        images //= 2  # norms in fp32 under autocast: what does not fit is not tried
    said = ""
    while images >= 1:
        run = {"case": case, "model": model, "micro_batch": images, "seconds": given.seconds, "small": given.small}
        found, said = tars(run, given.gpus, folder, data) if case == "tars" and data else child(run, given.gpus)
        if found:
            return run | found | {"gpus": given.gpus, "took_s": round(time.monotonic() - began, 1)}
        if said:
            break
        images //= 2
    return {"case": case, "model": model, "failed": said or "no micro-batch fits"}


def child(run: dict[str, Any], gpus: int) -> tuple[dict[str, Any] | None, str]:
    """A case of gpu_contenders.py on every GPU. (its figures, "") or (None, what went wrong; "" if memory did)."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"] if gpus > 1 else []
    command = [sys.executable, *several, str(HERE / "gpu_contenders.py"), json.dumps(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1]), ""
    if done.returncode == OUT_OF_MEMORY or f"exitcode  : {OUT_OF_MEMORY}" in done.stderr:
        return None, ""
    return None, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def tars(run: dict[str, Any], gpus: int, folder: Path, data: Path) -> tuple[dict[str, Any] | None, str]:
    """`vitstream train` until it has been measured for long enough; then it is killed: nobody wants its weights."""
    name = f"{run['model'].replace('/', '')}-{run['micro_batch']}"
    batch, place, path = run["micro_batch"] * gpus, folder / name, folder / f"{name}.yaml"
    config = run_config(run, {"train": str(data)}, str(place), batch)
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pipeline.cli", "train", str(path), "--nproc", str(gpus)]
    log, began = folder / f"{name}.log", time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    lines: list[dict[str, Any]] = []
    while process.poll() is None and sum(each["step_s"] for each in lines[WARM_UP:]) < run["seconds"]:
        time.sleep(0.5)
        lines = list(steps(place / "metrics.jsonl"))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if len(lines) <= WARM_UP:
        said = log.read_text().strip()
        return None, "" if "out of memory" in said.lower() else said.splitlines()[-1]
    used, first = lines[WARM_UP:], lines[0]["step_s"]
    seconds = sum(each["step_s"] for each in used)
    parts = {key: round(sum(each[key] for each in used) / seconds, 4) for key in PARTS}
    return {
        "images_per_s": round(len(used) * batch / seconds, 1),
        "mfu": used[-1]["mfu"] and round(fmean(each["mfu"] for each in used), 4),
        "memory_gb": round(max(each.get("device_memory_bytes") or 0 for each in lines) / 1e9, 1),
        "data_wait": round(sum(each["data_wait_s"] for each in used) / seconds, 4),
        "parts": parts,
        "steps": len(used),
        "first_step_s": round(first, 1),
        "to_first_step_s": round(time.monotonic() - began - sum(each["step_s"] for each in lines), 1),
    }, ""


PARTS: Final = ("data_s", "forward_s", "backward_s", "reduce_s", "optimizer_s")


def steps(metrics: Path) -> Iterator[dict[str, Any]]:
    if metrics.exists():
        for line in metrics.read_text().splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # torn, as it is being written
                return
            if "step_s" in found and "eval" not in found:
                yield found


def run_config(run: dict[str, Any], data: dict[str, str], place: str, batch: int) -> dict[str, Any]:
    """RUN.yaml of one of our cases."""
    case, small = run["case"], run["small"]
    engine = {
        "compile": "auto" if case != "eager" and not small else False,
        "activation_checkpointing": 1.0 if case == "recomputed" else 0.0,
    }
    return {
        "run_dir": place,
        "data": data,
        "model": {
            "name": run["model"],
            "image_size": 64 if small else 224,
            "pooling": "cls" if case == "cls" else "gap",
        },
        "batch_size": batch,
        "micro_batch_size": run["micro_batch"],
        "steps": 100_000,
        "precision": "bf16",
        "zero": case if case.startswith("zero") else "zero1",
        "engine": engine,
        "checkpoint": {"every_steps": 1_000_000},
        "loader": {"workers": min(8, max(1, (os.cpu_count() or 2) // 2))},
        "schedule": {"name": "linear", "warmup_steps": 1000},
        "log_every": FLUSH,
    }


def make_data(folder: Path, photos: int) -> Path:
    """Photos of 500 x 375, sharded with a shorter side of 256, as `vitstream shard` does by default."""
    from photos import write_photos

    write_photos(folder, "small", photos)
    command = [sys.executable, "-m", "pipeline.cli", "shard", str(folder / "photos"), "--out", str(folder / "data")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "data"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'model':10}{'case':15}{'micro-batch':>12}{'img/s':>10}{'MFU':>8}{'GB':>8}{'data wait':>11}"]
    for row in rows:
        start = f"{row['model']:10}{row['case']:15}"
        if "failed" in row:
            lines.append(f"{start}  {row['failed'][:100]}")
            continue
        mfu = f"{row['mfu']:.1%}" if row["mfu"] else ""
        wait = f"{row['data_wait']:.2%}" if "data_wait" in row else ""
        numbers = f"{row['micro_batch']:>12}{row['images_per_s']:>10,.1f}{mfu:>8}{row['memory_gb']:>8}{wait:>11}"
        lines.append(start + numbers)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
