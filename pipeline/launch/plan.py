"""What a run will need and how long it is, computed before anything is started. Torch-free; no image is read.

All follows from the configuration, the manifests and the order: nothing is measured but the order itself. What cannot
work is refused, what will be slow is a warning.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pipeline.config import Config
from pipeline.data.corpus import Corpus, fit_order, not_cached
from pipeline.data.feed import TrainFeed
from pipeline.data.forecast import Requests, held, requests_of, shuffle_quality
from pipeline.data.mixture import Mixture
from pipeline.data.order import Order, SampleOrder
from pipeline.data.recipe import MEMORY_SHARE
from pipeline.data.ring import Shape
from pipeline.data.spans import LOCAL_GAP, REMOTE_GAP
from pipeline.data.storage import MAX_OPEN
from pipeline.dataset.errors import UsageError
from pipeline.dataset.index import MAX_REMOTE_BATCHES, ROWS_PER_BATCH
from pipeline.dataset.quantities import human_bytes
from pipeline.launch.caching import CachePlan, cache_plan
from pipeline.launch.choice import Choice, choose, gpu_warnings
from pipeline.launch.gpu_memory import GpuMemory, gpu_memory
from pipeline.launch.length import Length, length_of
from pipeline.launch.machines import Machines
from pipeline.launch.saving import Saving, saving_of
from pipeline.launch.states import States, learning, model_states
from pipeline.launch.template import engine_notes
from pipeline.models.resolution import sizes
from pipeline.optim.groups import ParameterGroup
from pipeline.optim.schedule import schedule_notes

S3_REQUESTS_PER_S: Final = 5500  # GETs of one prefix, as AWS documents
GOOD_SHUFFLE: Final = 1.1
MANY_ALONE: Final = 0.25


@dataclass(frozen=True)
class Part:
    """What has epochs of its own: all datasets together, or each of a mixture."""

    name: str
    samples: int
    bytes: int
    share: float  # of the samples that are read
    epochs: float  # of its own, in the run
    lanes: int
    chunk: int  # samples
    window: int  # chunks
    pool: int  # samples from which what a batch takes of this part is drawn
    pool_bytes: int
    whole: bool  # whether an epoch is one full permutation, of which nothing is kept for later
    tail: float  # share of an epoch that is shuffled as one block, and mostly read one by one


@dataclass(frozen=True)
class Volume:
    """Bytes of compressed images that are needed."""

    sample: float
    epoch: int
    epoch_of_node: int
    step: int
    step_of_node: int
    run: int


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory for data, checkpoints and offloaded state, of a rank where nothing else is said."""

    windows: int  # on average
    windows_most: int
    limit: int | None  # loader.memory: chunks beyond it are read sample by sample
    room: float  # share of the samples for which there is room, on average
    read_ahead: int
    ring: int  # of decoded images
    node: int  # all of it, at most, for all ranks of a node
    node_has: int | None


@dataclass(frozen=True)
class Traffic:
    """Requests and bytes at the planned rate, once a run is under way."""

    requests: Requests
    requests_per_s: float  # of all ranks
    index_requests_per_s: float  # further ones, of data that lies elsewhere
    requests_per_s_of_node: float
    bytes_per_s_of_node: float


@dataclass(frozen=True)
class Plan:
    """All of it."""

    length: Length
    states: States | None  # None where only building the model would tell, as of the two below
    gpu: GpuMemory | None
    choice: Choice | None
    groups: tuple[ParameterGroup, ...]
    zero: str
    precision: str
    parts: tuple[Part, ...]
    classes: int
    shuffle: float | None  # see forecast.shuffle_quality
    volume: Volume
    memory: Memory
    saving: Saving
    traffic: Traffic
    cache: CachePlan | None
    warnings: tuple[str, ...]
    machines: Machines

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"gpu": self.gpu and self.gpu.to_json()}


def make_plan(config: Config, corpus: Corpus, machines: Machines) -> Plan:
    """Raises UsageError where the run cannot work."""
    order = fit_order(corpus, config.batch_size, config.seed)
    total = config.total_samples(corpus.samples)
    feed = TrainFeed(
        order, config.batch_size, machines.ranks, 0, config.micro_batch_size, 0, total, config.augment.mixes
    )
    parts = _parts(corpus, order, total)
    length = length_of(config, len(corpus.classes), corpus.samples, feed, machines)
    per_sample = sum(part.share * part.bytes / part.samples for part in parts)
    volume = _volume(length, per_sample, corpus.samples, machines)
    saving = saving_of(config, len(corpus.classes), feed.steps, machines.ranks)
    share = (config, len(corpus.classes), machines.ranks, length.accumulation)
    states, capacity = model_states(*share), machines.gpu_bytes
    on_host = saving.snapshot + (states.host if states else 0)
    memory = _memory(config, parts, feed, corpus.several, per_sample, on_host, machines)
    plan = Plan(
        length=length,
        states=states,
        gpu=gpu_memory(*share, feed.batch, capacity),
        choice=choose(*share, feed.batch, capacity),
        groups=learning(config, len(corpus.classes)),
        zero=config.zero,
        precision=config.precision,
        parts=parts,
        classes=len(corpus.classes),
        shuffle=shuffle_quality(order, len(corpus.classes), config.batch_size),
        volume=volume,
        memory=memory,
        saving=saving,
        traffic=_traffic(config, corpus, feed, length.most_images_per_s, memory.room, machines),
        cache=cache_plan(config, corpus, volume.run, machines.nodes),
        warnings=(),
        machines=machines,
    )
    return Plan(**(vars(plan) | {"warnings": tuple(_warnings(config, plan, corpus, feed))}))


def _parts(corpus: Corpus, order: SampleOrder, total: int) -> tuple[Part, ...]:
    orders = _orders(order)
    places = sum(order.shares) if isinstance(order, Mixture) else 1
    parts = []
    for number, own in enumerate(orders):
        size = sum(member.bytes for member in corpus.members_of(number))
        whole = own.chunk == 1 or not own.body
        pool = own.samples if whole else min(own.lanes * own.window * own.chunk, own.samples)
        parts.append(
            Part(
                name=corpus.name(number),
                samples=own.samples,
                bytes=size,
                share=order.used(number, places) / places,
                epochs=order.used(number, total) / own.samples,
                lanes=own.lanes,
                chunk=own.chunk,
                window=own.window,
                pool=pool,
                pool_bytes=pool * size // own.samples,
                whole=whole,
                tail=own.tail / own.samples,
            )
        )
    return tuple(parts)


def _volume(length: Length, per_sample: float, samples: int, machines: Machines) -> Volume:
    epoch, step = round(per_sample * samples), round(per_sample * length.batch_size)
    return Volume(
        sample=per_sample,
        epoch=epoch,
        epoch_of_node=epoch // machines.nodes,
        step=step,
        step_of_node=step // machines.nodes,
        run=round(per_sample * length.samples),
    )


def _memory(
    config: Config,
    parts: tuple[Part, ...],
    feed: TrainFeed,
    several: int,
    per_sample: float,
    beside: int,
    machines: Machines,
) -> Memory:
    """`beside`: bytes of a rank that are no data: for checkpoints, and for optimizer state that is offloaded."""
    loader = config.loader
    orders = zip(_orders(feed.order), parts, strict=True)
    held_bytes = [held(order, machines.ranks) * part.bytes / part.samples for order, part in orders]
    windows = np.sum(held_bytes, axis=0)
    limit = loader.memory
    if limit is None and machines.memory is not None:
        limit = machines.memory // MEMORY_SHARE // machines.ranks_per_node
    ahead = 1 + 1.25 * loader.read_ahead  # at most, as window.py asks for several at once
    read_ahead = round(ahead * feed.rows * per_sample)
    ring = Shape(loader.prefetch + feed.accumulation, feed.rows, max(sizes(config)), several).bytes
    most = round(windows.max())
    node = machines.ranks_per_node * (min(most, limit or most) + read_ahead + ring + beside)
    if machines.memory is not None and node > machines.memory:
        raise UsageError(
            f"loader: the ranks of a node take {human_bytes(node)} for data, checkpoints and offloaded state, and it "
            f"has {human_bytes(machines.memory)}: lower loader.memory, loader.read_ahead or loader.prefetch, set "
            "checkpoint.asynchronous: false, or take a zero that offloads nothing"
        )
    room = 1.0 if limit is None else float(np.minimum(1, limit / np.maximum(1, windows)).mean())
    return Memory(round(windows.mean()), most, limit, room, read_ahead, ring, node, machines.memory)


def _orders(order: SampleOrder) -> tuple[Order, ...]:
    """Of each part."""
    return order.orders if isinstance(order, Mixture) else (order,)


def _traffic(
    config: Config, corpus: Corpus, feed: TrainFeed, images_per_s: float, room: float, machines: Machines
) -> Traffic:
    remote = any(member.location.is_remote for member in corpus.members)
    found = _requests(corpus, feed, config.loader.workers).with_room_for(room)
    rate = images_per_s * found.per_sample
    shards = sum(len(member.manifest.shards) for member in corpus.members)
    for_index = 0  # a request finds its rows in memory, or needs a batch of them, and that the index's end
    if remote and corpus.samples > MAX_OPEN * MAX_REMOTE_BATCHES * ROWS_PER_BATCH:
        for_index += 1
    if remote and shards > MAX_OPEN:
        for_index += 1
    return Traffic(
        requests=found,
        requests_per_s=rate * machines.ranks,
        index_requests_per_s=for_index * rate * machines.ranks,
        requests_per_s_of_node=rate * machines.ranks_per_node,
        bytes_per_s_of_node=rate * machines.ranks_per_node * found.bytes_each,
    )


def _requests(corpus: Corpus, feed: TrainFeed, workers: int) -> Requests:
    gap = REMOTE_GAP if any(member.location.is_remote for member in corpus.members) else LOCAL_GAP
    workers = min(max(1, workers), feed.rows)
    return requests_of(corpus, feed.order, feed.batch_size, feed.world_size, feed.rows, workers, gap)


def _against_many_alone(config: Config, corpus: Corpus, feed: TrainFeed) -> str:
    """Who shares chunks, and what helps. A lane's are its rank's where the ranks divide the lanes (order.slot_owners).

    Where a batch takes each lane several times, and a micro-batch more than once, a rank's workers share its lanes.
    """
    workers, threads = config.loader.workers, config.loader.threads
    for fewer in (workers >> n for n in range(1, workers.bit_length())):
        if _requests(corpus, feed, fewer).alone <= MANY_ALONE:
            threads = -(-threads * workers // fewer)
            return f"as chunks are shared by a rank's workers: take loader.workers: {fewer}, loader.threads: {threads}"
    return (
        "as chunks are shared by ranks: take a batch_size whose largest divisor up to 4,096 is large and a multiple of "
        f"the {feed.world_size} ranks"
    )


def _warnings(config: Config, plan: Plan, corpus: Corpus, feed: TrainFeed) -> list[str]:
    found = list(gpu_warnings(plan.gpu, plan.choice, plan.machines))
    found += engine_notes(config, plan.length.accumulation) + schedule_notes(config.schedule, plan.length.steps)
    memory, requests = plan.memory, plan.traffic.requests
    if memory.room < 1:
        found.append(
            f"windows take {human_bytes(memory.windows)} a rank on average, loader.memory is "
            f"{human_bytes(memory.limit or 0)}: {1 - memory.room:.0%} of the samples are read one by one, which only a "
            "local disk does well; raise it, or use more ranks"
        )
    elif requests.alone > MANY_ALONE and any(part.chunk > 1 for part in plan.parts):
        found.append(
            f"{requests.alone:.0%} of the samples are read one by one, {_against_many_alone(config, corpus, feed)}"
        )
    if plan.shuffle is not None and plan.shuffle > GOOD_SHUFFLE:
        found.append(
            f"if the data lay sorted by class, batches would be mixed unevenly ({plan.shuffle:.2f}): "
            "shuffle it when it is sharded"
        )
    asked = plan.traffic.requests_per_s + plan.traffic.index_requests_per_s
    if asked > S3_REQUESTS_PER_S and any(m.location.text.lower().startswith("s3://") for m in corpus.members):
        found.append(f"{asked:,.0f} requests/s: S3 answers {S3_REQUESTS_PER_S:,} for one prefix; use data.cache")
    if plan.cache is not None and plan.cache.fetched > plan.cache.fetched_without:
        found.append(
            f"data.cache: fetches {human_bytes(plan.cache.fetched)} in all, without it the run would fetch "
            f"{human_bytes(plan.cache.fetched_without)}: each node fetches what it keeps, needed there or not, "
            "which pays where there are more epochs than nodes"
        )
    if plan.cache is not None:
        found += not_cached(corpus.members)
    if plan.length.batch_size % plan.length.ranks:
        most = plan.length.accumulation * plan.length.micro_batch
        idle = 1 - plan.length.batch_size / (plan.length.ranks * most)
        found.append(f"the {plan.length.ranks} ranks do not divide batch_size: {idle:.1%} of the slots are padding")
    return found
