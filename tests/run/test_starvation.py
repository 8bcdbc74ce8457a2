"""What is said of a wait for data: the stage only where it is the bottleneck, else the true cause, and seldom."""

import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch

from pipeline.config import Config, load_config
from pipeline.data.batch import StageTimes
from pipeline.data.feed import EvaluationFeed
from pipeline.data.loader import Crew, Loader
from pipeline.run.starvation import Watch, could_feed, dominating, split
from tests.datasets import make_dataset
from tests.reading import recipe_of
from tests.remote import connected, upload
from tests.runs import write_run
from tests.servers import Flaky, s3_server


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(write_run(tmp_path / "run.yaml", tmp_path, loader={"workers": 3}, micro_batch_size=8), [])


def line(read: float = 0.0, decode: float = 0.0, copy: float = 0.0, feeds: float | None = 100.0) -> dict:
    """A step of ten seconds at 100 images/s, as metrics.jsonl has it. `feeds`: loader_images_per_s."""
    stages = {"data_read_s": read, "data_decode_s": decode, "data_copy_s": copy}
    return {"step_s": 10.0, "images_per_s": 100.0, "loader_images_per_s": feeds} | stages


def said_of(config: Config, *lines: dict, remote: bool = False) -> str | None:
    watch = Watch(config, remote)
    assert watch.see([line(read=9.0)]) is None, "the first steps wait for the start of everything"
    return watch.see(list(lines))


@pytest.mark.fast
def test_a_stage_is_named_where_the_loaders_are_the_bottleneck(config: Config) -> None:
    said = said_of(config, line(read=3.0, decode=0.5, feeds=110))
    assert said and said.startswith("data wait is 35% of the step, mostly read: raise loader.reads (now 8)")
    said = said_of(config, line(read=0.1, decode=0.2, feeds=105))
    assert said and said.startswith("data wait is 3.0% of the step, mostly decode: ")
    assert "loader.workers (now 3 per rank" in said or "more workers would not help" in said
    said = said_of(config, line(read=3.0, feeds=None))  # what they could feed is not known
    assert said and "mostly read" in said
    said = said_of(config, line(read=0, feeds=1000), line(read=9.0, feeds=60))  # of all steps, not of the last
    assert said and "mostly read" in said


@pytest.mark.fast
def test_no_stage_is_blamed_where_the_loaders_could_feed_more(config: Config) -> None:
    for stage in ("read", "decode"):
        said = said_of(config, line(**{stage: 0.5}, feeds=620))
        assert said and "data wait is 5.0% of the step, though loaders could feed 6.2 times as much" in said
        assert "raise loader.prefetch (now 4)" in said and "mostly" not in said


@pytest.mark.fast
def test_what_the_rank_does_itself_is_not_the_workers(config: Config, tmp_path: Path) -> None:
    said = said_of(config, line(read=0.1, copy=0.4, feeds=620))
    assert said and "mostly copy" in said and ("micro_batch_size (now 8)" in said or "no core free" in said)
    alone = replace_loader(config, workers=0)
    said = said_of(alone, line(read=1.0, decode=4.0, feeds=200))
    assert (
        said == "data wait is 50% of the step, as the ranks load their images themselves: raise loader.workers (now 0)"
    )


def replace_loader(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"loader": config.loader.model_copy(update=changes)})


@pytest.mark.fast
def test_little_is_said_and_seldom(config: Config) -> None:
    assert said_of(config, line(read=0.05, decode=0.04)) is None  # 0.9 %
    watch = Watch(config, remote=True)
    said = [watch.see([line(read=5.0)]) is not None for _ in range(30)]  # at 10, 20, ... seconds
    assert [number for number, each in enumerate(said) if each] == [1, 7, 19]  # then after 60, 120, ...
    assert watch.see([line(copy=5.0)]), "another cause is another matter"


@pytest.mark.fast
def test_a_wait_is_shared_out_and_adds_up() -> None:
    times = [StageTimes(3.0, 1.0, 0.1, 8), StageTimes(0.0, 2.0, 0.5, 8), StageTimes(0.0, 0.0, 0.2, 0)]
    waits = split([0.9, 0.3, 0.1], times)
    assert waits.stages == pytest.approx((0.6, 0.2, 0.1 + 0.3 + 0.1)) and waits.total_s == pytest.approx(1.3)
    assert could_feed(waits.worker_s_per_image, 2) == pytest.approx(2 * 16 / 6)
    assert could_feed(0.0, 2) is None


def test_what_lies_ready_is_not_waited_for(tmp_path: Path) -> None:
    make_dataset(tmp_path, 16)
    recipe = recipe_of(tmp_path, EvaluationFeed(16, 8, 0, 1), 32, None)
    loader = Loader(recipe, 2, 2, 1, torch.device("cpu"))
    assert isinstance(loader._crew, Crew)
    try:
        for _ in range(2):
            for child in loader._crew._children:
                wait([child.connection])
            began = time.perf_counter()
            batch = next(loader)
            waited_s = time.perf_counter() - began
            assert loader._crew.waited_s == 0 and 0 < batch.times.copy_s <= waited_s
            waits = split([waited_s], [batch.times])
            assert waits.copy_s == batch.times.copy_s and batch.times.decode_s > 0
    finally:
        loader.close()


def test_of_a_slow_server_it_is_the_reading(tmp_path: Path) -> None:
    make_dataset(tmp_path, 8, shards=1)
    with s3_server() as upstream:
        upload(upstream, "slow", tmp_path)
        with Flaky(upstream, rate=0, seed=0, pace=20_000).running() as url, connected(url):  # 0.2 s an image
            loader = Loader(recipe_of("s3://slow", EvaluationFeed(8, 8, 0, 1), 32, None), 0, 1, 1, torch.device("cpu"))
            began = time.perf_counter()
            times = next(loader).times
            waits = split([time.perf_counter() - began], [times])
            loader.close()
    assert dominating(waits.stages) == "read"
