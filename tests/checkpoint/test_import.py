"""A native DeepSpeed checkpoint, of another trainer, goes on in ours as it would have gone on there."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pipeline.checkpoint.adopt import adopt
from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.verify import verify
from pipeline.checkpoint.zero_layout import parts_of_stage_1_2, parts_of_stage_3
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.run.directory import RunDirectory
from tests.datasets import make_dataset
from tests.ranks import run_ranks
from tests.runs import one_line, steps_of, train, vitstream, write_run

SAMPLES, BATCH = 96, 32
SMALL = {"name": "vit-ti/8", "image_size": 16, "depth": 2, "width": 32, "heads": 2, "mlp_dim": 64}
# Uneven: partitions of three ranks cut parameters anywhere, and stage 3 pads most of them.
CASES = {
    "stage 1": ({"stage": 1}, "ours", 2),
    "stage 2": ({"stage": 2, "overlap_comm": False}, "transformers", 2),
    "stage 1 bf16": ({"stage": 1}, "ours", 2),
    "stage 3": ({"stage": 3, "overlap_comm": False, "sub_group_size": 3000}, "ours", 3),
}


def write(path, data, batch=BATCH, **changes):
    same = {"model": SMALL, "batch_size": batch, "loader": {"workers": 0}}
    same["optimizer"] = {"lr": 3e-3, "weight_decay": 0.2}
    return write_run(path, data, **(same | changes))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("import") / "data"
    make_dataset(path, SAMPLES, size=(24, 24))
    return path


def train_natively(folder, data, case):
    """(the other trainer's losses, its checkpoint after the first epoch)."""
    zero, model, ranks = CASES[case]
    out = folder / case.replace(" ", "-")
    out.mkdir()
    same = {"precision": "bf16" if "bf16" in case else "fp32", "micro_batch_size": 5 if ranks == 3 else 8}
    run = write(out / "theirs.yaml", data, 30 if ranks == 3 else BATCH, **same)
    (out / "zero.json").write_text(json.dumps(zero))
    ended = run_ranks("tests.checkpoint.native_rank", (run, out, model, out / "zero.json"), ranks)
    assert ended.codes == [0] * ranks, ended.stderr
    return json.loads((out / "losses.json").read_text()), out / "native"


@pytest.fixture(scope="module", params=CASES)
def native(request, data, tmp_path_factory):
    if request.param == "stage 3":
        data = data.parent / "data-90"
        make_dataset(data, 90, size=(24, 24))
    folder = tmp_path_factory.mktemp("native")
    losses, checkpoint = train_natively(folder, data, request.param)
    return request.param, data, losses, checkpoint


def test_training_goes_on_as_it_would_have_there(native, tmp_path):
    case, data, losses, checkpoint = native
    zero, _, ranks = CASES[case]
    batch = 30 if ranks == 3 else BATCH
    run = write(tmp_path / "run.yaml", data, batch)
    done = vitstream("checkpoint", "import", checkpoint, "--run", run, "--trust", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["step"], made["consumed"], made["stage"], made["ranks"]) == (3, 3 * batch, zero["stage"], ranks)
    assert made["notes"] == [], "nothing differs, and the epoch is done"
    (path,) = published(tmp_path / "run" / "checkpoints")
    manifest = verify(path)
    assert path.name == "step-00000003" and manifest.optimizer_step == 3
    assert RunDirectory(tmp_path / "run").published_file.read() == 3
    if "transformers" not in CASES[case]:
        weights, gathered = TensorReader(path, manifest).weights(), load_file(checkpoint.parent / "weights.safetensors")
        assert weights.keys() == gathered.keys()
        assert all(torch.equal(weights[name], whole) for name, whole in gathered.items())
    if "bf16" in case:  # its losses are of other roundings
        return
    trained = train(run, 2)
    assert "from step-00000003, which verifies" in trained.stdout and "exactly once" in trained.stdout
    ours = [line["loss"] for line in steps_of(run).values()]
    assert len(ours) == 6 and len(losses) == 9
    assert ours == pytest.approx(losses[3:], rel=1e-5)
    assert max(losses[3:]) - min(losses[3:]) > 0.05, "it learns, so a forgotten moment would show"


@pytest.mark.parametrize("native", ["stage 2"], indirect=True)
def test_what_does_not_fit_or_is_not_trusted_is_refused(native, tmp_path):
    _, data, _, checkpoint = native
    run = write(tmp_path / "run.yaml", data)

    def refused(words, source=checkpoint, trust=True, error=UsageError, **model):
        config = load_config(run, [f"model.{key}={value}" for key, value in model.items()])
        with pytest.raises(error, match=words):
            adopt(source, config, trust, None, None)
        assert list((tmp_path / "run").glob("checkpoints/*")) == []

    one_line(vitstream("checkpoint", "import", checkpoint, "--run", run), "pickles", "--trust")
    refused("no such folder", source=tmp_path / "none")
    refused("zero_pp_rank_", source=data)
    refused("blocks.2.*not in it", depth=3)
    refused("vit.layers.1.*no parameter of this model", depth=1)
    refused("there, .* in this model", mlp_dim=32)
    lacking = shutil.copytree(checkpoint, tmp_path / "lacking")
    next(lacking.glob("*/*zero_pp_rank_1_*optim_states.pt")).unlink()
    refused("1 optimizer files of 2", source=lacking)
    next(lacking.glob("*/*zero_pp_rank_0_*optim_states.pt")).write_bytes(b"no pickle")
    refused("cannot be read", source=lacking, error=WorkFailed)
    (lacking / "latest").write_text("../elsewhere")
    refused("latest: names '../elsewhere'", source=lacking)


@pytest.mark.parametrize("native", ["stage 2"], indirect=True)
def test_the_position_inside_an_epoch_and_other_hyperparameters_are_said(native, tmp_path):
    _, data, _, checkpoint = native
    run = write(tmp_path / "run.yaml", data, optimizer={"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.95]})
    options = ("--trust", "--step", 5, "--samples", 2 * SAMPLES + 7)
    done = vitstream("checkpoint", "import", checkpoint, "--run", run, *options)
    assert done.returncode == 0, done.stderr
    for words in ("7 samples of epoch 2 had been used", "begins epoch 2 anew", "betas: [0.9, 0.999] there, [0.9, 0.95"):
        assert words in done.stdout
    assert "0.2 there, 0.1 from here on" in done.stdout
    one_line(vitstream("checkpoint", "import", checkpoint, "--run", run, "--trust"), "has checkpoints already")
    train(run, 1)
    lines = steps_of(run)
    assert list(lines) == [6, 7, 8] and {line["epoch"] for line in lines.values()} == {2}


def test_a_pickle_does_nothing_until_it_is_trusted(data, tmp_path):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        (tmp_path / "bad").mkdir(exist_ok=True)
        torch.save({"x": Touch()}, tmp_path / "bad" / name)
    run = write(tmp_path / "run.yaml", data)
    one_line(vitstream("checkpoint", "import", tmp_path / "bad", "--run", run), "--trust")
    assert not (tmp_path / "executed").exists()


@pytest.mark.fast
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_parts_cover_each_parameter_once(ranks):
    elements, paddings = {"a": 7, "b": 1, "c": 12}, [1, 0, 3]
    whole = sum(elements.values()) + sum(paddings)
    partition = -(-whole // ranks)
    for parts in (
        [p for rank in range(ranks) for p in parts_of_stage_1_2(elements, paddings, partition, rank)],
        [p for rank in range(ranks) for p in parts_of_stage_3(elements, ranks, rank)],
    ):
        for name, count in elements.items():
            covered = sorted((part.start, part.stop) for part in parts if part.name == name)
            assert [n for start, stop in covered for n in range(start, stop)] == list(range(count))


@pytest.mark.fast
def test_where_parts_lie():
    elements = {"a": 5, "b": 4}
    assert list(parts_of_stage_1_2(elements, [1, 0], 5, 1)) == [("b", 0, 4, 1)]
    assert list(parts_of_stage_3(elements, 2, 1)) == [("a", 3, 5, 0), ("b", 2, 4, 3)]
