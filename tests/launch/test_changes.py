"""A changed configuration: listed, to be accepted, or refused; key by key."""

import shutil

import pytest

from pipeline.config import Config
from pipeline.dataset.errors import UsageError
from pipeline.launch.changes import changes, refuse_harmful
from tests.datasets import make_dataset
from tests.runs import one_line, steps_of, train, vitstream, write_run

RUN = {
    "run_dir": "runs/one",
    "data": {"train": "train"},
    "model": {"name": "vit-ti/8", "image_size": 32},
    "batch_size": 8,
    "epochs": 1,
}


def config(**changed):
    return Config.model_validate(RUN | changed)


def before(**changed):
    return config(**changed).to_json(exclude={"run_dir"})


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changed", "key", "kind"),
    [
        ({"loss": "sigmoid"}, "loss", "harmful"),
        ({"label_smoothing": 0.1}, "label_smoothing", "harmful"),
        ({"optimizer": {"betas": [0.9, 0.95]}}, "optimizer.betas", "harmful"),
        ({"optimizer": {"eps": 1e-6}}, "optimizer.eps", "harmful"),
        ({"optimizer": {"weight_decay": 0.3}}, "optimizer.weight_decay", "harmful"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name", "harmful"),
        ({"optimizer": {"momentum": 0.8}}, "optimizer.momentum", "harmful"),
        ({"optimizer": {"layer_decay": 0.75}}, "optimizer.layer_decay", "harmful"),
        ({"optimizer": {"groups": [{"match": "head.*", "lr": 10}]}}, "optimizer.groups", "harmful"),
        ({"augment": {"mixup": 0.2}}, "augment.mixup", "harmful"),
        ({"regularization": {"drop_path": 0.1}}, "regularization.drop_path", "harmful"),
        ({"regularization": {"patch_dropout": 0.1}}, "regularization.patch_dropout", "harmful"),
        ({"optimizer": {"lr": 1e-4}}, "optimizer.lr", "harmless"),
        ({"schedule": {"name": "linear"}}, "schedule.name", "harmless"),
        ({"batch_size": 16}, "batch_size", "harmless"),
        ({"precision": "fp32"}, "precision", "harmless"),
        ({"zero": "zero2"}, "zero", "harmless"),
        ({"regularization": {"clip_norm": 0.5}}, "regularization.clip_norm", "harmless"),
        ({"data": {"train": "moved"}}, "data.train", "harmless"),
        ({"model": RUN["model"] | {"init": "hub"}}, "model.init", "harmless"),
        ({"model": RUN["model"] | {"head_bias": -10}}, "model.head_bias", "harmless"),
        ({"model": RUN["model"] | {"depth": 2}}, "model.depth", "fixed"),
        ({"model": RUN["model"] | {"pooling": "map"}}, "model.pooling", "fixed"),
        ({"model": RUN["model"] | {"pos_embed": "sincos2d"}}, "model.pos_embed", "fixed"),
        ({"model": RUN["model"] | {"registers": 4}}, "model.registers", "fixed"),
        ({"model": RUN["model"] | {"layer_scale": 0.1}}, "model.layer_scale", "fixed"),
        ({"model": RUN["model"] | {"qk_norm": True}}, "model.qk_norm", "fixed"),
        ({"model": {"name": "hf:bit", "image_size": 32}}, "model.name", "fixed"),
        ({"seed": 1}, "seed", "fixed"),
        ({"loader": {"name": "mosaic"}}, "loader.name", "fixed"),
    ],
)
def test_what_each_key_means(changed, key, kind):
    (found,) = changes(before(), config(**changed))
    assert (found.key, found.kind) == (key, kind)


@pytest.mark.fast
def test_the_first_value_of_layer_scale_and_the_place_of_a_foreign_model_do_not_matter():
    scaled = [RUN["model"] | {"layer_scale": first} for first in (1e-4, 1e-5)]
    foreign = [{"name": f"hf:{place}"} for place in ("a/bit", "b/bit")]
    for old, new in (scaled, foreign):
        (found,) = changes(before(model=old), config(model=new))
        assert found.kind == "harmless"


@pytest.mark.fast
def test_an_average_may_begin_but_not_be_mixed_or_dropped():
    averaged, other = {"decay": 0.99}, {"decay": 0.999}
    kinds = [
        [change.kind for change in changes(before(ema=old), config(ema=new))]
        for old, new in ((None, averaged), (averaged, other), (averaged, None), (averaged, averaged))
    ]
    assert kinds == [["harmless"], ["harmful"], ["harmful"], []]


@pytest.mark.fast
def test_harmful_ones_need_a_word_and_fixed_ones_are_never_accepted():
    harmless = changes(before(), config(optimizer={"lr": 1e-4}))
    refuse_harmful(harmless, accepted=False)
    harmful = changes(before(), config(loss="sigmoid", augment={"mixup": 0.2, "flip": False}))
    refuse_harmful(harmful, accepted=True)
    with pytest.raises(UsageError, match=r"augment\.flip.*augment\.mixup.*loss.*--accept-changes"):
        refuse_harmful(harmful, accepted=False)
    for accepted in (False, True):
        with pytest.raises(UsageError, match="seed: is 0 in this run's checkpoints and 1 now"):
            refuse_harmful(changes(before(), config(seed=1, loss="sigmoid")), accepted)


@pytest.mark.fast
def test_keys_that_an_older_checkpoint_lacks_mean_their_defaults():
    old = before()
    del old["loader"]["name"], old["regularization"], old["model"]["init"]
    assert changes(old, config()) == []
    assert [str(c) for c in changes(old, config(slurm={"nodes": 2}))] == []
    assert [c.key for c in changes(before() | {"gone": 1}, config())] == ["gone"]


@pytest.mark.fast
def test_no_credentials_are_shown():
    (found,) = changes(before(data={"train": "s3://user:secret@a/b"}), config(data={"train": "https://c/d?key=secret"}))
    assert "secret" not in str(found) and "s3://" in str(found)
    kept = config(data={"train": ["s3://user:secret@a/b", "c"]}, checkpoint={"copy_to": "gs://user:secret@d/e"})
    assert "secret" not in str(kept.to_checkpoint()) and "s3://a/b" in str(kept.to_checkpoint())
    assert changes(kept.to_json(exclude={"run_dir"}), kept) == changes(kept.to_checkpoint(), kept) == []


def test_a_run_goes_on_with_a_changed_loss_only_when_told_to(tmp_path):
    make_dataset(tmp_path / "data", 64)
    steps = {"epochs": None, "batch_size": 8}
    run = write_run(tmp_path / "run.yaml", tmp_path / "data", steps=24, **steps)
    train(run)
    changed = ("--set", "steps=28", "--set", "loss=sigmoid", "--set", "optimizer.lr=1e-5")
    one_line(vitstream("train", run, *changed), "loss: softmax -> sigmoid", "--accept-changes")
    assert vitstream("order", run, "--step", 1, *changed).returncode == 0, "its order is the same"
    done = train(run, 2, *changed, "--accept-changes")
    assert "changed since that checkpoint: loss: softmax -> sigmoid" in done.stdout
    assert "changed since that checkpoint: optimizer.lr: 0.001 -> 1e-05" in done.stdout
    assert done.stdout.count("the loss jumped") == 1
    assert len(steps_of(run)) == 28
    moved = shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "moved" / "checkpoints")  # nothing else of it
    again = train(run, 1, *changed[2:], "--set", f"run_dir={moved.parent}", "--set", "steps=32")
    assert "changed since" in again.stdout and "loss: " not in again.stdout.partition("changed since")[2].split("\n")[0]
    assert "the loss jumped" not in again.stdout


def test_what_is_compared_is_the_checkpoint_that_is_gone_on_from(tmp_path):
    """The newest has the same configuration and is damaged; the one before it was trained with another loss."""
    make_dataset(tmp_path / "data", 64)
    run = write_run(tmp_path / "run.yaml", tmp_path / "data", steps=2, epochs=None, batch_size=8)
    train(run)
    train(run, 1, *(changed := ("--set", "loss=sigmoid", "--set", "steps=4")), "--accept-changes")
    with (tmp_path / "run" / "checkpoints" / "step-00000004" / "rank-00000.safetensors").open("ab") as file:
        file.write(b"more")
    folder = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    refused = vitstream("train", run, "--nproc", 2, *changed)
    one_line(refused, "step-00000002", "loss: softmax -> sigmoid", "--accept-changes")
    done = train(run, 1, *changed, "--set", f"run_dir={folder}", "--accept-changes")
    assert "from step-00000002, which verifies" in done.stdout
    assert "changed since that checkpoint: loss: softmax -> sigmoid" in done.stdout
