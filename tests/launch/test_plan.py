"""`vitstream plan`: what it says is what a run then does; and a user's mistakes are one line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Config, load_config
from pipeline.data.corpus import Corpus, Member, fit_order, open_corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.read import Reader
from pipeline.data.recipe import Recipe
from pipeline.data.sample import Hole, Sample
from pipeline.data.window import Share, Window
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import sample_key
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, Shard
from pipeline.launch.machines import ASSUMED_MOST, Machines
from pipeline.launch.plan import Plan, make_plan
from pipeline.launch.plan_lines import _about, as_lines
from pipeline.launch.saving import Saving
from tests.datasets import make_dataset, photo_entry, write_dataset
from tests.remote import connected
from tests.runs import one_line, steps_of, train, vitstream, write_run
from tests.servers import Flaky, fill, s3_server

SAMPLES, WORKERS = 6200, 2
TORCH_BLOCKED = "import sys; sys.modules['torch'] = None; from pipeline.cli import main; main()"
GB = 10**9


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of many samples, which are the same photo."""
    path = tmp_path_factory.mktemp("plan") / "many"
    photo = photo_entry(0, 0, (64, 48), 0)
    entries = [dataclasses.replace(photo, key=sample_key(f"{n}.jpg"), label=n * 5 // SAMPLES) for n in range(SAMPLES)]
    write_dataset(path, [entries[:2000], entries[2000:3100], entries[3100:]], tuple("abcde"))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A run on few samples."""
    make_dataset(tmp_path / "data", 100)
    return write_run(tmp_path / "run.yaml", tmp_path / "data", epochs=1, schedule={"warmup_steps": 0})


def windows_of(config: Config, corpus: Corpus, world_size: int, reader: Reader) -> tuple[TrainFeed, list[float]]:
    """Rank 0 reads all of its run. Returns its feed, and how many samples lay in its windows at each item."""
    order, total = fit_order(corpus, config.batch_size, config.seed), config.total_samples(corpus.samples)
    feed = TrainFeed(order, config.batch_size, world_size, 0, config.micro_batch_size, 0, total)
    recipe = Recipe.of_training(config, corpus, feed, world_size, {})
    shares = [Share(number, WORKERS, feed.rows) for number in range(WORKERS)]
    room = recipe.room(WORKERS)
    crew = [Window(reader, feed, share, recipe.ahead, recipe.at_once, room, 1, 60.0) for share in shares]
    samples = []
    for item in range(feed.items):
        for window in crew:
            assert all(isinstance(sample, Sample) for sample in window.take(item).samples)
        samples.append(sum(window.samples for window in crew))
    for window in crew:
        window.close()
    return feed, samples


class Counting(Reader):
    """A reader that counts what it is asked for once the start is over, by one request each."""

    asked, slow = 0, True

    def read(self, ids: list[int], at_once: bool = False) -> dict[int, Sample | Hole]:
        self.asked += not at_once
        return super().read(ids, at_once)


def test_a_run_takes_the_steps_that_were_planned(tiny: Path) -> None:
    done = vitstream("plan", tiny, "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    length = planned["length"]
    assert not (tiny.parent / "run").exists(), "a plan writes nothing"
    said, steps = train(tiny).stdout, steps_of(tiny)
    assert (length["steps"], length["last_batch"], length["samples"], length["epochs"]) == (4, 4, 100, 1.0)
    assert len(steps) == 4 and steps[4]["consumed"] == 100 and steps[3]["consumed"] == 96
    assert f"{length['accumulation']} x {length['micro_batch']} each" in said
    (file,) = (tiny.parent / "run" / "checkpoints").glob("step-*/*.safetensors")
    assert planned["saving"]["each"] < file.stat().st_size < 1.02 * planned["saving"]["each"], "and a header"


@pytest.mark.fast
@pytest.mark.parametrize("share", [None, 0.6, 0.25])
def test_windows_hold_and_ask_for_what_was_planned(many: Path, tmp_path: Path, share: float | None) -> None:
    """`share`: of what windows take on average, the part for which there is room."""
    loader = {"workers": WORKERS, "read_ahead": 2}
    run = write_run(tmp_path / "run.yaml", many, batch_size=20, epochs=1, loader=loader)
    config, corpus = load_config(run, []), open_corpus(str(many))
    machines = Machines(1, 2, None, 100.0)
    plan = make_plan(config, corpus, machines)
    if share is not None:
        config = load_config(run, [f"loader.memory={plan.memory.windows * share:.0f}"])
        plan = make_plan(config, corpus, machines)
    memory, reader = plan.memory, Counting(corpus)
    feed, samples = windows_of(config, corpus, 2, reader)
    used = np.array(samples) * plan.volume.sample
    assert reader.asked / feed.total * 2 == pytest.approx(plan.traffic.requests.per_sample, rel=0.1)
    if memory.limit is None:
        assert used.mean() == pytest.approx(memory.windows, rel=0.05) and memory.room == 1
        assert used.max() == pytest.approx(memory.windows_most, rel=0.1)
    else:
        assert memory.limit < memory.windows and 0.2 < memory.room < 0.8
        assert used.max() <= memory.limit + memory.read_ahead


def test_what_a_server_is_asked_for_was_planned(many: Path, tmp_path: Path) -> None:
    objects = {f"many/{path.relative_to(many)}": path.read_bytes() for path in many.rglob("*") if path.is_file()}
    with s3_server() as upstream:
        log = Flaky(upstream, rate=0, seed=0)
        fill(upstream, "data", objects)
        with log.running() as url, connected(url):
            where = {"train": "s3://data/many"}
            loader = {"workers": WORKERS, "prefetch": 1}
            run = write_run(tmp_path / "run.yaml", many, data=where, batch_size=32, epochs=1, loader=loader)
            config, corpus = load_config(run, []), open_corpus("s3://data/many")
            plan = make_plan(config, corpus, Machines(1, 1, None, 100.0))
            feed, _ = windows_of(config, corpus, 1, Reader(corpus))
    requests, at_once = plan.traffic.requests, (1 + feed.accumulation) * feed.batch
    asked = sum(path.endswith(".tar") for path, _ in log.asked)
    sent = sum(size for path, size in log.sent.items() if path.endswith(".tar"))
    assert requests.per_sample < 0.1
    assert asked - at_once == pytest.approx(requests.per_sample * SAMPLES, rel=0.1)
    expected = plan.volume.epoch * requests.amplification + at_once * plan.volume.sample
    assert sent == pytest.approx(expected, rel=0.02)
    assert plan.volume.run == sum(len(data) for name, data in objects.items() if name.endswith(".tar"))


# -- clusters and corpora that are not here: a plan reads no shard ---------------------------------------------


def imagined(samples: int, where: str = "s3://data/x", sample_bytes: int = 31_000) -> Corpus:
    """16 shards, of which there is nothing but a manifest."""
    each = samples // 16
    shards = tuple(Shard(f"shard-{n:06d}.tar", each, each * sample_bytes, "0" * 16, "0" * 16) for n in range(16))
    return Corpus((Member(Location.of(where), Manifest(tuple(map(str, range(1000))), "single", shards)),))


def plan_of(folder: Path, corpus: Corpus, machines: Machines, **overrides: object) -> Plan:
    run = {"model": {"name": "vit-h/14"}, "batch_size": 4096, "epochs": 14, "micro_batch_size": 64, "loader": {}}
    return make_plan(load_config(write_run(folder / "run.yaml", Path("x"), **run | overrides), []), corpus, machines)


@pytest.mark.fast
def test_a_large_run(tmp_path: Path) -> None:
    corpus = imagined(300_000_000)
    slow = plan_of(tmp_path, corpus, Machines(8, 8, 1000 * GB, None), precision="fp32")
    assert "40% of an H100's peak, a bf16 one, which fp32 is far from; say" in as_lines(slow)[2]
    plan = plan_of(tmp_path, corpus, Machines(8, 8, 1000 * GB, None), precision="bf16")
    length, memory = plan.length, plan.memory
    assert length.assumed and 350 < length.images_per_s < 400  # an H100 at 40 %
    assert length.hours == pytest.approx(14 * 300e6 / (64 * length.images_per_s) / 3600)
    assert (length.accumulation, length.micro_batch) == (1, 64)
    pool = 4096 * 16 * 64 * 31_000 / 64  # of a rank: lanes, chunks of a window, samples of a chunk
    assert memory.windows == pytest.approx(pool / 2, rel=0.1) and 0.9 * pool < memory.windows_most < 1.05 * pool
    assert plan.traffic.requests.per_sample == pytest.approx(1 / 64, rel=0.1)  # a lane is one worker's
    assert plan.shuffle is not None and plan.shuffle < 1.1 and plan.warnings == ()
    state = 12 * 632_045_800  # ViT-H/14 of 1,000 classes
    assert plan.saving == Saving(each=state, most=4 * state, snapshot=-(-state // 64))
    synchronous = {"every_steps": 100_000, "keep_last": 1, "keep_every": 500_000, "asynchronous": False}
    less = plan_of(tmp_path, corpus, Machines(8, 8, 1000 * GB, None), checkpoint=synchronous)
    assert less.saving == Saving(state, 4 * state, 0)
    assert memory.node - less.memory.node == 8 * plan.saving.snapshot
    said = "\n".join(as_lines(plan))
    assert "a rank: 118.5 MB of main memory for its part" in said and "118.5 MB of main" not in "\n".join(
        as_lines(less)
    )
    assert "chi-square 1.0" in said and "40% of an H100's peak" in said and "of it by each node" in said
    assert f"{64 * length.hours:,.4g} GPU-hours" in said and "zero1; the first that fits" in said
    faster = plan_of(tmp_path, corpus, Machines(8, 8, 1000 * GB, None, "H200", 0.5)).length
    assert faster.hours == pytest.approx(length.hours * 0.4 / 0.5) and faster.gpu_hours == 64 * faster.hours
    crowded = plan_of(tmp_path, corpus, Machines(1, 1, None, None, "A100-40GB"), precision="bf16", micro_batch_size=128)
    assert crowded.choice and crowded.choice.memory.recomputed and "blocks recomputed" in "\n".join(as_lines(crowded))
    summed = plan_of(tmp_path, corpus, Machines(1, 8, None, None), precision="bf16", micro_batch_size=64)
    assert any("zero1 adds 8 micro-batches up in bf16" in warning for warning in summed.warnings)
    assert summed.to_json()["gpu"]["peak"] == summed.gpu.peak
    assert _about(18_433.2) == "18,430" and _about(0.085224) == "0.08522"
    too_much = {"micro_batch_size": 2048, "batch_size": 2048, "engine": {"compile": True}}  # zero3 is tried, too
    hopeless = plan_of(tmp_path, corpus, Machines(1, 1, None, None, "A100-40GB"), **too_much)
    assert any("no template makes it fit" in warning for warning in hopeless.warnings)


@pytest.mark.fast
def test_offloaded_state_takes_a_nodes_memory(tmp_path: Path) -> None:
    corpus = imagined(1_000_000)
    plan, on_gpu = (
        plan_of(tmp_path, corpus, Machines(1, 8, 1000 * GB, None), zero=zero) for zero in ("zero3_offload", "zero3")
    )
    assert plan.states.host == pytest.approx(12 * 632_045_800 / 8, rel=1e-6)  # masters and two moments, of a rank
    assert plan.memory.node - on_gpu.memory.node == 8 * plan.states.host
    assert "for data, checkpoints and offloaded optimizer state" in "\n".join(as_lines(plan))
    small = Machines(1, 8, 8 * (plan.states.host + plan.saving.snapshot), None)
    plan_of(tmp_path, corpus, small, zero="zero3")
    with pytest.raises(UsageError, match="a zero that offloads nothing"):
        plan_of(tmp_path, corpus, small, zero="zero3_offload")


@pytest.mark.fast
def test_a_mixture_is_planned_by_its_parts(tmp_path: Path) -> None:
    photos, web = imagined(1_600_000, "s3://data/photos"), imagined(160_000_000, "s3://data/web", 10_000)
    mixture = Corpus((*photos.members, *web.members), (1.0, 3.0))
    plan = plan_of(tmp_path, mixture, Machines(1, 8, None, 500.0), epochs=1)
    assert [part.share for part in plan.parts] == [0.25, 0.75]
    assert plan.length.samples == 161_600_000 and [round(part.epochs, 2) for part in plan.parts] == [25.25, 0.76]
    assert plan.volume.sample == pytest.approx(0.25 * 31_000 + 0.75 * 10_000)
    assert plan.shuffle is not None and plan.shuffle < 1.1
    alone = plan_of(tmp_path, web, Machines(1, 8, None, 500.0), epochs=1)
    assert 0.75 * alone.memory.windows < plan.memory.windows < 1.5 * alone.memory.windows
    assert any(
        "s3://data/web: 160,000,000 samples" in said and "75.0% of what is read" in said for said in as_lines(plan)
    )


@pytest.mark.fast
def test_a_run_whose_images_grow_is_the_sum_of_its_phases(tmp_path: Path) -> None:
    corpus, machines = imagined(1_000_000), Machines(1, 8, None, None)
    model = {"name": "vit-h/14", "image_size": 224}
    small, large = ({"model": model | {"image_size": size}} for size in (112, 224))
    at_112, at_224 = (plan_of(tmp_path, corpus, machines, epochs=10, **each).length for each in (small, large))
    phases = [{"image_size": 112, "until": 0.75}]
    plan = plan_of(tmp_path, corpus, machines, epochs=10, model=model, resolution=phases)
    length, share = plan.length, plan.length.phases[0].samples / plan.length.samples
    assert [each.steps for each in length.phases] == [round(0.75 * length.steps), length.steps // 4]
    assert sum(each.samples for each in length.phases) == 10_000_000 and share == pytest.approx(0.75, abs=1e-3)
    assert length.flops == pytest.approx(share * at_112.flops + (1 - share) * at_224.flops, rel=1e-9)
    assert length.hours == pytest.approx(share * at_112.hours + (1 - share) * at_224.hours)
    large_ones = plan_of(tmp_path, corpus, machines, epochs=10, **large)
    assert plan.memory.ring == large_ones.memory.ring and plan.states == large_ones.states
    assert plan.traffic.bytes_per_s_of_node > large_ones.traffic.bytes_per_s_of_node, "at the rate of the small images"
    said = as_lines(plan)
    assert any("images of 112 px for " in line and ", then 224 px for " in line for line in said)
    each = f"({at_112.flops / 1e9:.4g} at 112 px, {at_224.flops / 1e9:,.4g} at 224 px)"
    assert any(each in line for line in said), said


@pytest.mark.fast
def test_what_will_be_slow_is_a_warning(tmp_path: Path) -> None:
    corpus, eight = imagined(300_000_000), Machines(1, 8, None, None)
    (rate,) = plan_of(tmp_path, corpus, Machines(512, 8, None, None), precision="bf16").warnings
    assert "requests/s: S3 answers 5,500 for one prefix; use data.cache" in rate
    small = plan_of(
        tmp_path, corpus, eight, batch_size=1024, loader={"memory": "200MB"}, precision="bf16", zero="zero2"
    )
    assert small.memory.room < 0.2
    room = small.warnings[0]
    assert "loader.memory is 200.0 MB" in room and "read one by one" in room
    padding = plan_of(tmp_path, corpus, eight, batch_size=4100, micro_batch_size=1024).warnings[-1]
    assert "the 8 ranks do not divide batch_size: 0.1% of the slots are padding" in padding
    cache = {"train": "x", "cache": {"dir": str(tmp_path), "bytes": "20TB"}}
    twice = plan_of(tmp_path, corpus, Machines(64, 8, None, None), data=cache, epochs=1).warnings[-1]
    assert "data.cache: fetches 595.2 TB in all, without it the run would fetch 9.3 TB" in twice


@pytest.mark.fast
def test_chunks_that_are_shared_by_workers_or_by_ranks(tmp_path: Path) -> None:
    """vit-g14-jft3b's batches are four times the lanes; the ranks divide both, so another batch size is no help."""
    corpus, many = imagined(300_000_000, where="/data/x"), Machines(32, 8, None, None)
    shared, mended, uneven = (
        plan_of(tmp_path, corpus, many, batch_size=batch_size, loader={"workers": workers, "threads": 2})
        for batch_size, workers in ((16_384, 8), (16_384, 2), (16_400, 8))
    )
    assert shared.traffic.requests.alone > 0.5 and mended.traffic.requests.alone <= 0.25
    assert any("a rank's workers: take loader.workers: 2, loader.threads: 8" in each for each in shared.warnings)
    assert not any("one by one" in each for each in mended.warnings)
    assert any("largest divisor up to 4,096 is large and a multiple of the 256 ranks" in w for w in uneven.warnings)


@pytest.mark.fast
def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    corpus = imagined(1_000_000)
    with pytest.raises(UsageError, match=r"loader: the ranks of a node take .* it has 1\.0 GB: lower loader\.memory"):
        plan_of(tmp_path, corpus, Machines(1, 8, GB, None), loader={"prefetch": 64})
    cache = {"train": "x", "cache": {"dir": str(tmp_path), "bytes": "1GB"}}
    with pytest.raises(UsageError, match=r"data\.cache\.bytes: 1\.0 GB are less than a shard, .* 1\.9 GB: raise it"):
        plan_of(tmp_path, corpus, Machines(1, 8, None, None), data=cache)


# -- the command -----------------------------------------------------------------------------------------------


def test_few_samples_and_a_small_model_have_no_absurd_numbers(tiny: Path) -> None:
    done = vitstream("plan", tiny)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert f"at {ASSUMED_MOST:,.0f} images/s a rank (a guess: so small a model does not keep an H100 busy" in said
    assert "less than a second at" in said and "each sample is read by itself" in said
    assert "windows" not in said and "samples each" not in said and "by a request of their own" not in said
    assert "warning" not in said
    said = vitstream("plan", tiny, "--images-per-s", 2, "--nproc", 2).stdout
    assert "25.0 seconds at 2 images/s a rank\n" in said and "a node asks for 4.0 requests/s" in said


def test_without_torch_and_wrong_use_is_one_line(tiny: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TORCH_BLOCKED, "plan", str(tiny)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("run ")
    one_line(vitstream("plan", tiny.parent / "none.yaml"), "none.yaml")
    one_line(vitstream("plan", tiny, "--nproc", 2, "--nodes", 2), "--nproc", "--gpus-per-node")
    one_line(vitstream("plan", tiny, "--memory", "lots"), "--memory 'lots'", "512MB")
    one_line(vitstream("plan", tiny, "--nodes", 100), "batch_size: 32", "100 ranks")
    one_line(vitstream("plan", tiny, "--set", "data.train=nowhere"), "data.train", "nowhere")
    for rate in ("inf", "nan", "0"):
        done = vitstream("plan", tiny, "--images-per-s", rate)
        assert done.returncode == 2 and "--images-per-s" in done.stderr and "Traceback" not in done.stderr
