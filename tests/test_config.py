"""A run's YAML: what loads, what is refused and in which words."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import Config, differences, load_config
from pipeline.config_tree import PRESETS
from pipeline.dataset.errors import UsageError
from pipeline.launch.template import STAGES, zero_template

pytestmark = pytest.mark.fast

CONTRACT = """
extends: vit-h14-jft300m       # optional: a preset, then overrides
run_dir: runs/h14
data:  {train: data/train, val: data/val}          # DATASET folders or URLs
model: {name: vit-h/14, image_size: 224}           # vit-{ti,s,b,l,h,g}/PATCH, or hf:<config>
batch_size: 4096               # global
epochs: 14                     # or steps:
optimizer: {name: adamw, lr: 3.0e-4, weight_decay: 0.1, betas: [0.9, 0.999]}
schedule:  {name: linear, warmup_steps: 10000}
precision: bf16
zero: zero1                    # a template of ds_configs/, or a path
checkpoint: {every_steps: 1000, keep_last: 3}
evaluate: {every_steps: 5000}
augment: {crop: inception, flip: true, randaugment: null, mixup: 0.0}
loader: {workers: 8}
loss: softmax                  # or sigmoid; label_smoothing
regularization: {dropout: 0.0, drop_path: 0.0, clip_norm: 1.0}
log_every: 20
seed: 0
slurm: {nodes: 8, gpus_per_node: 8, time: "24:00:00", partition: gpu}   # tasks_per_node where there are no GPUs
"""

SMALL = "run_dir: r\ndata: {train: d}\nmodel: {name: vit-ti/16}\nbatch_size: 8\nsteps: 2\n"


def write(folder: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    path = write(folder, text)
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message or any(f"--set {override}" in message for override in overrides)
    return message.removeprefix(f"{path}: ")


# -- what loads ------------------------------------------------------------------------------------------------


def test_the_contracts_example_loads_key_by_key(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CONTRACT))
    asked = yaml.safe_load(CONTRACT)
    asked.pop("extends")
    loaded = config.to_json()
    for key, value in asked.items():
        for name, part in value.items() if isinstance(value, dict) else [(None, value)]:
            assert (loaded[key][name] if name else loaded[key]) == part, (key, name)
    assert config.model.head_bias == -10.0 and config.schedule.end_lr == 1e-5  # from the preset
    assert config.model.variant.width == 1_280
    assert config.total_samples(1_000) == 14_000


def test_a_small_one_has_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALL))
    assert config.total_samples(1_000_000) == 16
    assert (config.precision, config.zero, config.loss, config.seed) == ("bf16", "zero1", "softmax", 0)
    assert config.slurm is None and config.data.val is None


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_builds(tmp_path: Path, preset: str) -> None:
    path = write(tmp_path, f"extends: {preset}\nrun_dir: r\ndata: {{train: d}}\n")
    config = load_config(path)
    assert config.model.foreign is not None or config.model.image_size % config.model.variant.patch == 0
    assert zero_template(config)["zero_optimization"]["stage"] in STAGES


def test_numbers_without_a_dot_before_the_e_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 3e-4 as text."""
    text = SMALL + "optimizer: {lr: 3e-4, betas: [9e-1, 0.95], eps: 1e-6}\n"
    config = load_config(write(tmp_path, text), ["optimizer.weight_decay=1e-2"])
    assert config.optimizer.lr == 3e-4 and config.optimizer.weight_decay == 0.01
    assert config.optimizer.betas == (0.9, 0.95) and config.optimizer.eps == 1e-6


def test_unicode_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = SMALL.replace("train: d", "train: 'daten/Bäume 树 🌳'").replace("run_dir: r", "run_dir: läufe")
    for encoded in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        config = load_config(write(tmp_path, encoded))
        assert config.data.train == Path("daten/Bäume 树 🌳") and config.run_dir == Path("läufe")
    assert "Bäume 树 🌳" in config.to_yaml()
    assert load_config(write(tmp_path, config.to_yaml())) == config


@pytest.mark.parametrize("text", [SMALL, CONTRACT])
def test_to_yaml_round_trips(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, text), ["regularization.clip_norm=null", "augment.area=[0.25, 1]"])
    again = load_config(write(tmp_path, config.to_yaml(), "again.yaml"))
    assert again == config and again.hash == config.hash
    assert again.regularization.clip_norm is None and again.augment.area == (0.25, 1.0)


def test_a_number_for_random_erasing_is_its_probability(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALL), ["augment.random_erasing=0.5", "augment.randaugment={}"])
    erasing, randaugment = config.augment.random_erasing, config.augment.randaugment
    assert erasing is not None and (erasing.probability, erasing.area) == (0.5, (0.02, 1 / 3))
    assert randaugment is not None and (randaugment.n, randaugment.m) == (2, 9.0)


def test_the_hash_knows_everything_but_the_runs_folder(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    base = load_config(path)
    assert load_config(path, ["run_dir=elsewhere"]).hash == base.hash
    others = ["seed=1", "optimizer.lr=2e-3", "data.train=other", "zero=zero2", "slurm.nodes=2", "augment.flip=false"]
    hashes = {load_config(path, [override]).hash for override in others}
    assert len(hashes) == len(others) and base.hash not in hashes


# -- extends and --set -----------------------------------------------------------------------------------------


def test_extends_a_preset_then_a_file_then_overrides(tmp_path: Path) -> None:
    write(tmp_path, "extends: vit-h14-jft300m\noptimizer: {lr: 1e-4}\ndata: {train: a, val: b}\n", "base.yaml")
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", "extends: ../base.yaml\nrun_dir: r\ndata: {val: c}\nseed: 4\n")
    config = load_config(path, ["optimizer.betas=[0.9, 0.95]", "seed=5"])
    assert config.epochs == 14 and config.loss == "sigmoid"  # the preset's
    assert config.optimizer.lr == 1e-4 and config.optimizer.weight_decay == 0.1  # the file's, beside the preset's
    assert config.data.train == Path("a") and config.data.val == Path("c")
    assert config.optimizer.betas == (0.9, 0.95) and config.seed == 5


def test_steps_replace_a_presets_epochs(tmp_path: Path) -> None:
    text = "extends: vit-h14-jft300m\nrun_dir: r\ndata: {train: d}\nepochs: null\nsteps: 10\n"
    assert load_config(write(tmp_path, text)).total_samples(5) == 40_960


def test_extends_in_a_circle_or_nothing_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "extends: run.yaml\n")
    assert "extends itself" in message
    write(tmp_path, "extends: run.yaml\n", "other.yaml")
    assert "extends itself, through" in refusal(tmp_path, "extends: other.yaml\n")
    message = refusal(tmp_path, "extends: vit-h14\n")
    assert "vit-h14 is neither a preset nor a file" in message and "vit-h14-jft300m" in message


def test_set_types(tmp_path: Path) -> None:
    overrides = ["precision=fp32", "model.pooling=gap", "augment.flip=no", "data.val=null", "slurm.time='1:00:00'"]
    config = load_config(write(tmp_path, SMALL), [*overrides, "steps=3", "regularization={dropout: 0.1}"])
    assert config.precision == "fp32" and config.model.pooling == "gap" and config.augment.flip is False
    assert config.data.val is None and config.slurm is not None and config.slurm.time == "1:00:00"
    assert config.steps == 3 and config.regularization.dropout == 0.1
    later_wins = load_config(write(tmp_path, SMALL), ["seed=1", "seed=2"])
    assert later_wins.seed == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optimizer.lr", ("--set optimizer.lr", "KEY=VALUE")),
        ("optimizer.lr=[1", ("--set optimizer.lr=[1", "not valid YAML")),
        ("optimizer.lrr=1", ("unknown key optimizer.lrr", "did you mean lr?")),
        ("optimizer.lr=fast", ("optimizer.lr",)),
        ("optimizer=1", ("optimizer",)),
        ("seed.deep.er=1", ("seed",)),
        ("=3", ("unknown key",)),
    ],
)
def test_a_wrong_set_is_refused(tmp_path: Path, override: str, parts: tuple[str, ...]) -> None:
    message = refusal(tmp_path, SMALL, override)
    assert all(part in message for part in parts), message


# -- what is refused -------------------------------------------------------------------------------------------

SECTIONS = {
    "data": ("trian", "train"),
    "model": ("imagesize", "image_size"),
    "optimizer": ("learning_rate", None),
    "schedule": ("warmup", "warmup_steps"),
    "checkpoint": ("every_step", "every_steps"),
    "evaluate": ("every_stpes", "every_steps"),
    "engine": ("compiled", "compile"),
    "augment": ("flips", "flip"),
    "loader": ("worker", "workers"),
    "regularization": ("droppath", "drop_path"),
    "watchdog": ("silence_s", "silent_s"),
    "sinks": ("tensorbord", "tensorboard"),
    "slurm": ("node", "nodes"),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_of_a_section_is_refused_with_the_nearest(tmp_path: Path, section: str) -> None:
    wrong, right = SECTIONS[section]
    tree = yaml.safe_load(SMALL)
    tree.setdefault(section, {})[wrong] = 1
    message = refusal(tmp_path, yaml.safe_dump(tree))
    assert f"unknown key {section}.{wrong}" in message
    assert (f"did you mean {right}?" if right else "known here: ") in message


def test_every_section_is_tried() -> None:
    assert set(SECTIONS) == {k for k, v in load_sections().items() if v}


def load_sections() -> dict[str, bool]:
    config = Config.model_validate({**yaml.safe_load(SMALL), "slurm": {}})
    return {key: isinstance(value, dict) for key, value in config.to_json().items()}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SMALL + "batchsize: 3\n", ("unknown key batchsize", "did you mean batch_size?")),
        (SMALL + "xyzzy: 3\n", ("unknown key xyzzy", "known here: run_dir")),
        (SMALL.replace("run_dir: r\n", ""), ("missing key run_dir",)),
        (SMALL.replace("{train: d}", "{val: d}"), ("missing key data.train",)),
        (SMALL + "epochs: 2\n", ("exactly one of epochs and steps",)),
        (SMALL.replace("steps: 2\n", ""), ("exactly one of epochs and steps",)),
        (SMALL.replace("steps: 2", "steps: 0"), ("steps", "greater than 0")),
        (SMALL.replace("16}", "16, image_size: 225}"), ("image_size 225", "of the patch, 16", "224 or 240")),
        (SMALL.replace("16}", "14, image_size: 9}"), ("image_size 9", "of the patch, 14", "14 or 28")),
        (SMALL.replace("vit-ti/16", "vit-q/16"), ("vit-q/16", "ti, s, b, l, h, g", "hf:FOLDER")),
        (SMALL.replace("16}", "16, pooling: avg}"), ("model.pooling", "'cls', 'gap' or 'map'")),
        (SMALL.replace("16}", "16, pos_embed: 1d}"), ("model.pos_embed", "'learned', 'sincos2d' or 'none'")),
        (SMALL.replace("16}", "16, registers: -1}"), ("model.registers", "greater than or equal to 0")),
        (SMALL.replace("16}", "16, layer_scale: 0}"), ("model.layer_scale", "greater than 0")),
        (
            SMALL.replace("16}", "16, pos_embed: sincos2d, width: 18}"),
            ("model: pos_embed: sincos2d", "of 4, from 8 on"),
        ),
        (SMALL + "regularization: {patch_dropout: 1.0}\n", ("regularization.patch_dropout", "less than 1")),
        (SMALL.replace("16}", "16, heads: 7}"), ("7 heads do not divide the width, 192",)),
        (SMALL + "loss: hinge\n", ("loss", "softmax", "sigmoid")),
        (SMALL + "augment: {mixup: -0.2}\n", ("augment.mixup", "greater than or equal to 0")),
        (SMALL + "augment: {mixup: .inf}\n", ("augment.mixup", "finite")),
        (SMALL.replace("_size: 8", "_size: 1") + "augment: {cutmix: 1}\n", ("augment: ", "batch_size 1")),
        (
            SMALL + "augment: {randaugment: {m: 15}}\n",
            ("augment.randaugment.m", "0 to 10, not 15", "operations: big_vision"),
        ),
        (
            SMALL + "augment: {randaugment: {operations: big_vision, m: 31}}\n",
            ("augment.randaugment.m", "0 to 30 with"),
        ),
        (SMALL + "augment: {randaugment: {n: 0}}\n", ("augment.randaugment.n", "greater than 0")),
        (
            SMALL + "augment: {randaugment: {k: 1}}\n",
            ("unknown key augment.randaugment.k", "known here: operations, n, m"),
        ),
        (SMALL + "augment: {color_jitter: {}}\n", ("augment.color_jitter", "nothing to do")),
        (SMALL + "augment: {color_jitter: {hue: 0.6}}\n", ("augment.color_jitter.hue", "less than or equal to 0.5")),
        (SMALL + "augment: {random_erasing: 1.5}\n", ("augment.random_erasing.probability", "equal to 1")),
        (SMALL + "augment: {random_erasing: {area: [0.5, 0.1]}}\n", ("augment.random_erasing.area", "ascending")),
        (SMALL + "augment: {area: [0.5, 0.1]}\n", ("augment.area", "ascending")),
        (SMALL + "augment: {area: [0.5, 1.5]}\n", ("augment.area",)),
        (SMALL + "augment: {area: [0.5]}\n", ("augment.area",)),
        (SMALL + "optimizer: {lr: 0}\n", ("optimizer.lr", "greater than 0")),
        (SMALL + "optimizer: {name: lamb}\n", ("optimizer.name: lamb", "norms of whole parameters", "take adamw")),
        (SMALL + "optimizer: {name: Adafactor}\n", ("optimizer.name: Adafactor", "flat partitions")),
        (SMALL + "optimizer: {name: muon}\n", ("optimizer.name: muon", "orthogonal", "take adamw, or sgd")),
        (SMALL + "optimizer: {name: adam}\n", ("optimizer.name: adam is not one of adamw, sgd",)),
        (SMALL + "optimizer: {groups: [{match: '('}]}\n", ("optimizer.groups.0.match", "no regular expression")),
        (
            SMALL + "optimizer: {groups: [{match: a, mach: b}]}\n",
            ("unknown key optimizer.groups.0.mach", "did you mean match?"),
        ),
        (SMALL + "schedule: {name: cosine, cooldown_steps: 3}\n", ("schedule: cooldown_steps", "by itself")),
        (SMALL + "schedule: {end_lr: 0.01}\n", ("schedule.end_lr: 0.01 is above optimizer.lr, 0.001",)),
        (SMALL + "engine: {compile: 7}\n", ("engine.compile: Input should be 'auto', or a valid boolean",)),
        (
            SMALL + "engine: {activation_checkpointing: 2}\n",
            ("engine.activation_checkpointing: Input should be 'auto', or less than or equal to 1",),
        ),
        (SMALL + "resolution: {image_size: 96}\n", ("resolution: Input should be a list",)),
        (SMALL + "sinks: {tensorboard: s3://b/x}\n", ("sinks.tensorboard: takes true or a folder", "s3://b/x")),
        (SMALL + "optimizer: {lr: .nan}\n", ("optimizer.lr",)),
        (SMALL + "optimizer: {lr: .inf}\n", ("optimizer.lr",)),
        (SMALL + "optimizer: {weight_decay: .nan}\n", ("optimizer.weight_decay",)),
        (SMALL + "regularization: {dropout: 1.0}\n", ("regularization.dropout", "less than 1")),
        (SMALL + "seed: -1\n", ("seed",)),
        (SMALL + f"seed: {2**63}\n", ("seed",)),
        (SMALL + "slurm: {time: 24:00:00}\n", ("slurm.time", "in quotes")),  # YAML 1.1 reads it as 86,400
        (SMALL + "evaluate:\n", ("evaluate",)),
        (SMALL + "3: 4\n", ("3",)),
        ("", ("mapping of keys",)),
        ("- a\n- b\n", ("mapping of keys",)),
        ("just text", ("mapping of keys",)),
        ("a: [1\nb: 2\n", ("not valid YAML in line 2",)),
        ("a: !!python/object/apply:os.system ['true']\n", ("not valid YAML",)),
        ("{[1]: 2}\n", ("not valid YAML",)),
        (b"run_dir: \xff\xfe\n", ("not valid YAML",)),
        (b"run_dir: a\0b\n", ("not valid YAML",)),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, text: str | bytes, parts: tuple[str, ...]) -> None:
    message = refusal(tmp_path, text)
    assert all(part in message for part in parts), message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    preset = (Path("vit-h14-jft300m"), "it is a preset: write a file with extends: vit-h14-jft300m")
    for path, part in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory"), preset):
        with pytest.raises(UsageError, match=part) as caught:
            load_config(path)
        assert str(path) in str(caught.value)


def test_differences_name_the_leaves() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": None}
    new = {"a": 1, "b": {"c": 5, "d": 3}, "e": {"f": 1}, "g": 7}
    assert differences(old, new) == [("b.c", 2, 5), ("e", None, {"f": 1}), ("g", None, 7)]
    assert differences(old, old) == []
