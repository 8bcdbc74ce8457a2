"""Every ZeRO stage on 2 processes against plain torch on one: accumulation, clipping, two parameter groups, average."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from pipeline.config import load_config
from pipeline.data.feed import TrainFeed
from pipeline.data.order import Order
from pipeline.dataset.manifest import read_manifest
from tests.datasets import damage, make_dataset
from tests.models.foreign import write_bit
from tests.models.hybrid import HYBRID
from tests.parity.worker import starting_point
from tests.ranks import run_ranks
from tests.reading import recipe_of, run_loader
from tests.runs import write_run

NO_KERNELS = ("cls_token", "pos_embed", "register_tokens", "pool.probe")
PEAK, WARMUP, STEPS, CLIP, DECAY, AVERAGING = 1e-3, 3, 10, 0.5, 0.1, 0.8


def run_yaml(folder, data, zero="zero1", batch_size=30, optimizer=None, **changes):
    return write_run(
        folder / "run.yaml",
        data,
        zero=zero,
        batch_size=batch_size,
        micro_batch_size=6,
        epochs=None,
        steps=STEPS,
        optimizer={"lr": PEAK, "weight_decay": DECAY} | (optimizer or {}),
        schedule={"name": "linear", "warmup_steps": WARMUP},
        regularization={"clip_norm": CLIP},
        loader={"workers": 0},
        ema={"decay": AVERAGING},
        **changes,
    )


def plain_torch(config):
    """Ten steps as anyone would write them: whole batches of what can be read, torch's own clipping and AdamW."""
    manifest = read_manifest(config.data.train)
    order = Order.fit(manifest.samples, config.batch_size, config.seed)
    feed = TrainFeed(order, config.batch_size, 1, 0, config.batch_size, 0, config.batch_size * STEPS)
    sizes = {step: size_of(config, step) for step in range(1, STEPS + 1)}
    batches = {
        size: list(run_loader(recipe_of(config.data.train, feed, size, config.augment))) for size in sizes.values()
    }
    model = starting_point(config, len(manifest.classes))
    optimizer = reference_optimizer(config, model)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            lr = step / WARMUP if step <= WARMUP else (STEPS - step) / (STEPS - WARMUP)
            group["lr"] = config.optimizer.lr * lr * group["rate"]
        batch = batches[sizes[step]][step - 1]
        real = batch.weights > 0
        images = batch.images[real].permute(0, 3, 1, 2).float() / 127.5 - 1
        loss = F.cross_entropy(logits_of(model, config, images), batch.labels[real])
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        losses.append(float(loss.detach()))
        for name, parameter in model.named_parameters():
            average[name] = AVERAGING * average[name] + (1 - AVERAGING) * parameter.detach()
    return losses, norms, model.state_dict(), average


def size_of(config, step):
    """Pixels of a step's images, by counting: each phase ends with its last whole step, halves up."""
    ends = [(int(phase.until * STEPS + 0.5), phase.image_size) for phase in config.resolution]
    return next((size for end, size in ends if step <= end), 32)


def logits_of(model, config, images):
    """At another size: of a model made for that size, with all weights of `model`, and its grid as torch resizes it."""
    size, weights = images.shape[-1], dict(model.named_parameters())
    if size == 32:
        return model(images)
    at_size = config.model.model_copy(update={"image_size": size})
    small = starting_point(config.model_copy(update={"model": at_size, "resolution": ()}), len(model.head.bias))
    grid = weights["pos_embed"][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (size // 8, size // 8), mode="bilinear", align_corners=True).flatten(2).mT
    weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], grid], dim=1)
    return torch.func.functional_call(small, weights, images)


def reference_optimizer(config, model):
    """Each parameter in a group of its own. Of MANY: layer 0 of two at 1/4 of the rate, the head at twice the full."""
    groups = []
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "norm" in name or name in NO_KERNELS or parameter.ndim < 2
        rate, decay = 1.0, 0.0 if plain else DECAY
        if config.optimizer.layer_decay:
            rate = {"blocks.1": 0.5, "blocks.0": 0.25, "norm": 1.0, "head": 2.0}.get(name.rpartition(".")[0][:8], 0.125)
            decay = 10 * DECAY if name == "head.weight" else decay
        groups.append({"params": [parameter], "weight_decay": decay, "rate": rate})
    if config.optimizer.name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups)


def our_engine(run, out, world_size):
    ended = run_ranks("tests.parity.worker", (run, out), world_size)
    assert ended.codes == [0] * world_size, ended.stderr
    result = json.loads((out / "losses.json").read_text())
    return result, load_file(out / "weights.safetensors"), load_file(out / "average.safetensors")


def comparable(name, ours, theirs):
    """Parts of a parameter to compare, each by its own norm. The bias of the keys is none: adding the same to all of a
    query's scores changes no softmax, so its gradient is zero in exact arithmetic, and Adam scales up rounding noise.
    """
    if name == "pool.kv.bias":
        return {f"{name}, values": (ours.chunk(2)[1], theirs.chunk(2)[1])}
    if not name.endswith("qkv.bias"):
        return {name: (ours, theirs)}
    q, _, v = zip(ours.chunk(3), theirs.chunk(3), strict=True)
    return {f"{name}, queries": q, f"{name}, values": v}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "data"
    make_dataset(path, 352)
    return path


@pytest.fixture(scope="module")
def damaged(data, tmp_path_factory):
    """A copy of which every twelfth image is no image."""
    path = shutil.copytree(data, tmp_path_factory.mktemp("parity") / "damaged")
    damage(path, first=5, every=12)
    return path


@pytest.mark.parametrize(
    ("zero", "batch_size", "world_size"),
    [
        ("zero0", 30, 2),
        ("zero1", 30, 2),
        ("zero2", 30, 2),
        ("zero3", 30, 2),
        ("zero3_offload", 30, 2),
        ("zero1", 31, 2),
        ("zero2", 29, 3),
        ("zero3", 29, 4),
    ],
)
def test_ten_steps_equal_plain_torch(data, tmp_path, zero, batch_size, world_size):
    assert ten_steps(data, tmp_path, zero, batch_size, world_size) == [batch_size] * STEPS


def test_ten_steps_with_holes_equal_plain_torch_on_what_can_be_read(damaged, tmp_path):
    assert min(ten_steps(damaged, tmp_path, "zero1", 30, 2)) < 30


@pytest.mark.parametrize(("zero", "pooling"), [("zero1", "map"), ("zero3", "cls")])
def test_a_vit_with_all_parts_too(data, tmp_path, zero, pooling):
    parts = {"pos_embed": "sincos2d", "registers": 2, "layer_scale": 0.5, "qk_norm": True, "representation_size": 32}
    small = {"name": "vit-ti/8", "image_size": 32, "depth": 2, "width": 64, "heads": 2, "mlp_dim": 128}
    ten_steps(data, tmp_path, zero, 30, 2, model=small | parts | {"pooling": pooling})


@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_a_bit_of_transformers_too(data, tmp_path, zero):
    """The paper's ResNets, small; with GELU, since a ReLU's gradient jumps where rounding changes a sign."""
    model = {"name": f"hf:{write_bit(tmp_path / 'bit', hidden_act='gelu')}", "image_size": 32}
    ten_steps(data, tmp_path, zero, 30, 2, model=model)


def test_a_hybrid_too(data, tmp_path):
    ten_steps(data, tmp_path, "zero3", 30, 2, model=HYBRID)


@pytest.mark.parametrize("zero", ["zero1", "zero3"])
def test_images_that_grow_under_way_too(data, tmp_path, zero):
    ten_steps(
        data, tmp_path, zero, 30, 2, resolution=[{"image_size": 16, "until": 0.3}, {"image_size": 24, "until": 0.65}]
    )


@pytest.mark.parametrize(
    ("zero", "world_size", "engine"),
    [
        ("zero1", 2, {"compile": True, "activation_checkpointing": 0.5}),
        ("zero0", 1, {"activation_checkpointing": 1.0}),
        ("zero3", 2, {"activation_checkpointing": 1.0}),
    ],
)
def test_compiled_and_recomputed_blocks_equal_plain_torch(data, tmp_path, zero, world_size, engine):
    assert ten_steps(data, tmp_path, zero, 30, world_size, engine=engine) == [30] * STEPS


@pytest.mark.parametrize("zero", ["zero1", "zero2", "zero3"])
def test_bf16_stays_within_a_band_of_plain_torch_in_fp32(data, tmp_path, zero):
    """2 % of a loss, 2 % of each tensor's norm. bf16 has 8 bits: one rounding is up to 0.4 %."""
    ten_steps(data, tmp_path, zero, 30, 2, band=0.02, precision="bf16")


SGD = {"name": "sgd", "lr": 0.02}
MANY = {
    "layer_decay": 0.5,
    "groups": [{"match": r"head\.weight", "lr": 2, "weight_decay": 10}, {"match": r"head\.bias", "lr": 2}],
}


@pytest.mark.parametrize(
    ("zero", "world_size", "optimizer"),
    [
        ("zero0", 2, SGD),
        ("zero1", 3, SGD | MANY),
        ("zero2", 2, MANY),
        ("zero3", 2, SGD | MANY),
        ("zero3", 3, MANY),
        ("zero3_offload", 2, SGD),
    ],
)
def test_sgd_and_many_groups_equal_plain_torch(data, tmp_path, zero, world_size, optimizer):
    assert ten_steps(data, tmp_path, zero, 30, world_size, optimizer=optimizer) == [30] * STEPS


def ten_steps(data, tmp_path, zero, batch_size, world_size, band=1e-5, **changes):
    """How many samples of each step were read. `band`: relative, of losses and of each tensor's norm."""
    run = run_yaml(tmp_path, data, zero, batch_size, **changes)
    losses, norms, weights, average = plain_torch(load_config(run))
    result, our_weights, our_average = our_engine(run, tmp_path, world_size)
    assert result["stage"] == int(zero[len("zero")])
    assert result["accumulation"] > 1
    assert bool(result["graphs"]) == bool(changes.get("engine", {}).get("compile")), "blocks are compiled if asked for"
    assert min(norms) < max(norms) and max(norms) > CLIP, "clipping was not exercised"
    assert result["losses"] == pytest.approx(losses, rel=band)
    assert result["norms"] == pytest.approx(norms, rel=10 * band)
    initial = starting_point(load_config(run), 5).state_dict()
    for ours, theirs in ((our_weights, weights), (our_average, average)):
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            assert not torch.equal(expected, initial[name]), f"{name} was not trained"
            for part, (a, b) in comparable(name, ours[name], expected).items():
                assert torch.linalg.vector_norm(a - b) <= band * torch.linalg.vector_norm(b), part
    return result["read"]
