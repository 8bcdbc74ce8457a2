"""A plan as a person reads it."""

from collections.abc import Iterator

from pipeline.dataset.quantities import human_bytes
from pipeline.launch.machines import ASSUMED_MOST
from pipeline.launch.plan import Plan
from pipeline.launch.template import template_names
from pipeline.optim.groups import table


def as_lines(plan: Plan) -> list[str]:
    """One line a fact, a title at the beginning of each group."""
    groups = {
        "run": _run(plan),
        "model": _model(plan),
        "gpu": _gpu(plan),
        "learning": table(plan.groups),
        "data": _data(plan),
        "order": _order(plan),
        "reading": _reading(plan),
        "memory": _memory(plan),
        "saving": _saving(plan),
        "cache": _cache(plan),
        "warning": iter(plan.warnings),
    }
    lines = []
    for title, facts in groups.items():
        for number, fact in enumerate(facts):
            repeated = number and title != "warning"
            lines.append(f"{'' if repeated else title:9}{fact}")
    return lines


def _run(plan: Plan) -> Iterator[str]:
    length = plan.length
    last = f", the last of {length.last_batch:,}" if length.last_batch != length.batch_size else ""
    steps = f"{length.steps:,} steps of {length.batch_size:,}{last}"
    yield f"{steps}: {length.epochs:.4g} epochs, {length.samples:,} samples"
    ranks = "the one rank" if length.ranks == 1 else f"each of {length.ranks:,} ranks"
    yield f"{ranks} takes {length.accumulation} x {length.micro_batch} of a batch"
    if len(length.phases) > 1:
        yield "images of " + ", then ".join(f"{each.image_size} px for {each.steps:,} steps" for each in length.phases)
    rate = f"{length.images_per_s:,.0f} images/s a rank"
    guess = plan.machines.told + (", a bf16 one, which fp32 is far from" if plan.precision == "fp32" else "")
    guess += "" if plan.machines.mfu else "; say yours with --mfu or --images-per-s"
    if length.flops is None:
        guess = "a guess, the most that is assumed: what this model computes is not known here; say --images-per-s"
    elif all(phase.images_per_s == ASSUMED_MOST for phase in length.phases):
        guess = f"a guess: so small a model does not keep an {plan.machines.gpu} busy; say yours with --images-per-s"
    guess = f" ({guess})" if length.assumed else ""
    gpu_hours = f", {_about(length.gpu_hours)} GPU-hours," if length.gpu_hours >= 1 else ""
    yield f"{_time(length.hours * 3600)}{gpu_hours} at {rate}{guess}"


def _model(plan: Plan) -> Iterator[str]:
    states, length = plan.states, plan.length
    if states is None:
        yield "parameters and their memory are not known before a model of this kind is built"
        return
    yield f"{states.parameters:,} parameters"
    if length.flops:
        total = length.flops * length.samples / 1e18
        sized = [f"{_about(each.flops / 1e9)} at {each.image_size} px" for each in length.phases if each.flops]
        parts = f" ({', '.join(sized)})" if len(sized) > 1 else ""
        yield f"{_about(length.flops / 1e9)} GFLOP to train on an image{parts}, {_about(total)} exaFLOP in all"


def _gpu(plan: Plan) -> Iterator[str]:
    """A rank's GPU, by part; and which template suits it."""
    states, memory, choice = plan.states, plan.gpu, plan.choice
    if states is None:
        return
    parts = {"weights": states.weights, "gradients": states.gradients, "optimizer": states.optimizer}
    parts |= {"average": states.average} if states.average else {}
    host = f"; {human_bytes(states.host)} of optimizer in main memory" if states.host else ""
    if memory is None or choice is None:
        told = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts.items())
        yield f"{plan.zero}: a rank has {told}{host}; activations are not known"
        return
    parts |= {"activations": memory.activations, "buffers": memory.buffers}
    told = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts.items())
    has = f"an {plan.machines.gpu}'s {human_bytes(plan.machines.gpu_bytes)}"
    yield f"a rank at its peak: {human_bytes(memory.peak)} of {has}"
    yield f"{told}{host}"
    if memory.recomputed:
        yield f"{memory.recomputed} of {memory.blocks} blocks are recomputed in the backward pass, so that it fits"
    yield f"zero: {plan.zero}; {choice.told(plan.zero)} (of {', '.join(template_names())})"


def _data(plan: Plan) -> Iterator[str]:
    for part in plan.parts:
        line = f"{part.name}: {part.samples:,} samples, {human_bytes(part.bytes)}"
        line += f", {human_bytes(part.bytes // part.samples)} each"
        if len(plan.parts) > 1:
            line += f"; {part.share:.1%} of what is read, {part.epochs:.4g} epochs of its own"
        yield line
    volume = plan.volume
    of_node = f", {human_bytes(volume.epoch_of_node)} of it by each node" if _many_nodes(plan) else ""
    yield f"an epoch reads {human_bytes(volume.epoch)}{of_node}; the run {human_bytes(volume.run)}"
    of_node = f", {human_bytes(volume.step_of_node)} of it by each node" if _many_nodes(plan) else ""
    yield f"a step reads {human_bytes(volume.step)}{of_node}"


def _order(plan: Plan) -> Iterator[str]:
    for part in plan.parts:
        of = f"{part.name}: " if len(plan.parts) > 1 else ""
        if part.whole:
            yield f"{of}every epoch is one full permutation: each sample is read by itself"
            continue
        yield f"{of}{part.lanes:,} lanes, chunks of {part.chunk}, windows of {part.window} chunks, tail {part.tail:.2%}"
        yield f"{of}drawn from a pool of {part.pool:,} samples, {human_bytes(part.pool_bytes)}"
    if plan.shuffle is not None:
        yield f"shuffle: chi-square {plan.shuffle:.2f} of a batch's classes if the data lay sorted (1 is ideal)"


def _reading(plan: Plan) -> Iterator[str]:
    traffic, requests = plan.traffic, plan.traffic.requests
    per_request = 1 / requests.per_sample
    more = f", {requests.amplification - 1:.1%} of it for nothing" if requests.amplification > 1.001 else ""
    if requests.alone < 1:
        yield f"requests of {human_bytes(round(requests.bytes_each))}{more}, {per_request:.1f} samples each"
        yield f"{requests.alone:.1%} of the samples come by a request of their own"
    node = f"{traffic.requests_per_s_of_node:,.1f} requests/s, {human_bytes(round(traffic.bytes_per_s_of_node))}/s"
    whole = (
        f"; all nodes {traffic.requests_per_s:,.1f} requests/s" if plan.volume.epoch > plan.volume.epoch_of_node else ""
    )
    rate = "the rate above"
    if len(plan.length.phases) > 1:
        rate = f"{plan.length.most_images_per_s:,.0f} images/s a rank, where they are smallest,"
    yield f"at {rate} a node asks for {node}{whole}"
    if traffic.index_requests_per_s:
        yield f"and {traffic.index_requests_per_s:,.1f} small ones for indexes, of all nodes"


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    limit = f" (at most {human_bytes(memory.limit)}, loader.memory)" if memory.limit is not None else ""
    if memory.windows_most:
        yield f"a rank: windows {human_bytes(memory.windows)}, at times {human_bytes(memory.windows_most)}{limit}"
    yield f"a rank: read-ahead {human_bytes(memory.read_ahead)}, ring of decoded images {human_bytes(memory.ring)}"
    has = f" of {human_bytes(memory.node_has)}" if memory.node_has is not None else ""
    offloads = plan.states is not None and plan.states.host > 0
    offloaded = ", checkpoints and offloaded optimizer state" if offloads else " and checkpoints"
    yield f"a node: at most {human_bytes(memory.node)}{has} for data{offloaded}"


def _saving(plan: Plan) -> Iterator[str]:
    saving = plan.saving
    if saving.each is None or saving.most is None:
        yield "what a checkpoint takes is not known before a model of this kind is built: 12 bytes a parameter or more"
        return
    yield f"a checkpoint has {human_bytes(saving.each)}, all that are kept, and one more, {human_bytes(saving.most)}"
    if saving.snapshot:
        yield f"a rank: {human_bytes(saving.snapshot)} of main memory for its part, while it is written beside training"


def _cache(plan: Plan) -> Iterator[str]:
    cache = plan.cache
    if cache is None:
        return
    if cache.holds == 1:
        yield f"{human_bytes(cache.bytes)} hold all of the data, on each node"
    else:
        rest = "the rest is read by ranges in every epoch"
        yield f"{human_bytes(cache.bytes)} hold {cache.holds:.1%} of the data on each node; {rest}"
    less = f"{human_bytes(cache.fetched)} are fetched in all; without a cache {human_bytes(cache.fetched_without)}"
    yield f"{less} ({cache.fetched / cache.fetched_without:.2f} times)"


def _many_nodes(plan: Plan) -> bool:
    return plan.volume.epoch_of_node < plan.volume.epoch


def _about(number: float) -> str:
    """To four digits, and never with an exponent: 18,430."""
    return f"{float(f'{number:.4g}'):,.12g}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    for unit, length, most in (("seconds", 1, 60), ("minutes", 60, 60), ("hours", 3600, 72)):
        if seconds < most * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds / 86400:,.1f} days"
