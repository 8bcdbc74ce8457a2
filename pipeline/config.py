"""A run's YAML as one typed tree. Unknown keys are refused with the nearest match; torch-free.

    RUN.yaml   `extends: PRESET or FILE`   ->   its keys   ->   RUN.yaml's keys   ->   `--set a.b=c`   ->   Config

Paths are relative to the working directory, as on any command line.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config_engine import Engine
from pipeline.config_model import Model, Resolution
from pipeline.config_optim import Optimizer, Schedule
from pipeline.config_preset import Preset
from pipeline.config_sinks import Sinks
from pipeline.config_slurm import Slurm
from pipeline.config_tree import Positive, Section, explain, merge, read_tree
from pipeline.data.places import Place, Places
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import canonical_json
from pipeline.dataset.location import without_credentials
from pipeline.dataset.quantities import parse_bytes
from pipeline.run.watchdog import Limits

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


def _bytes(value: int | str) -> int:
    """`1.5GB` or a number. Raises ValueError."""
    try:
        return parse_bytes(str(value), "")
    except UsageError as error:
        raise ValueError(str(error).strip()) from None


Bytes = Annotated[int, BeforeValidator(_bytes)]  # written as `200GB`, or a number


class Cache(Section):
    """A folder on a node's own disk, in which its processes share the shards that they have fetched."""

    dir: Path
    bytes: Bytes  # at most; for all runs that name this folder, together


class Data(Section):
    train: Places
    val: Place | None = None
    classes: Positive | Path | None = None  # how many, or a file of names: of an MDS folder that does not say it
    cache: Cache | None = None  # for whole shards; without one they are read by ranges
    retry_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0  # for which a read from afar is tried again; then a hole
    max_hole_rate: Fraction = 1e-4  # unreadable samples, as a share of the dataset, above which the run stops


class Checkpoint(Section):
    every_steps: Positive = 1000
    keep_last: Positive = 3
    keep_every: Positive | None = None  # steps of which the checkpoints stay for ever
    asynchronous: bool = True  # training waits for a copy in host memory only, which takes as many bytes there
    copy_to: Place | None = None  # a folder or a URL to which each checkpoint is copied once it is published

    @field_validator("copy_to")
    @classmethod
    def _writable(cls, copy_to: Path | str | None) -> Path | str | None:
        if isinstance(copy_to, str) and copy_to.lower().startswith(("http://", "https://")):
            raise ValueError("nothing can be written to a web server; take a folder, s3:// or gs://")
        return copy_to


class Evaluate(Section):
    every_steps: Positive = 5000
    crop: Share = 0.875  # side of the centre crop, as a share of the shorter side
    batch_size: Positive = 256  # per rank
    weights: Literal["model", "ema"] = "model"  # ema: their average


class Ema(Section):
    """An exponential moving average of the weights."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999  # per step


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1]:
        raise ValueError(f"takes two ascending positive numbers, not {list(value)}")
    return value


Area = Annotated[tuple[Share, Share], AfterValidator(_ascending)]  # shares of the image
Aspect = Annotated[tuple[float, float], AfterValidator(_ascending)]  # width / height, drawn log-uniformly
Strength = Annotated[float, Field(ge=0)]


class RandAugment(Section):
    operations: Literal["paper", "big_vision"] = "paper"  # big_vision: as the AugReg recipes have them
    n: Positive = 2  # operations per image
    m: Strength = 9.0  # 0 to 10, as in timm and the ViT recipes; of big_vision 0 to 30, which extrapolates

    @field_validator("m")
    @classmethod
    def _scale(cls, m: float, info: ValidationInfo) -> float:
        if info.data.get("operations") == "big_vision":
            if m > 30:
                raise ValueError(f"takes 0 to 30 with big_vision's operations, not {m:g}")
        elif m > 10:
            raise ValueError(
                f"takes 0 to 10, not {m:g}; torchvision counts to 30: divide its number by 3; big_vision beyond 10: "
                "say operations: big_vision"
            )
        return m


class ColorJitter(Section):
    brightness: Strength = 0.0  # these three: a factor from [max(0, 1 - x), 1 + x]
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # a turn from [-x, x]; 0.5 is half the circle

    @model_validator(mode="after")
    def _does_something(self) -> "ColorJitter":
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("has nothing to do: give brightness, contrast, saturation or hue, or null")
        return self


class RandomErasing(Section):
    probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    area: Area = (0.02, 1 / 3)
    aspect: Aspect = (0.3, 10 / 3)


class Augment(Section):
    crop: Literal["inception", "none"] = "inception"
    area: Area = (0.05, 1.0)  # of the inception crop
    aspect: Aspect = (3 / 4, 4 / 3)
    flip: bool = True
    randaugment: RandAugment | None = None
    color_jitter: ColorJitter | None = None
    random_erasing: RandomErasing | None = None  # a number is its probability
    mixup: Strength = 0.0  # alpha of Beta(alpha, alpha); with cutmix too, each pair gets one of them, by a coin
    cutmix: Strength = 0.0

    @field_validator("random_erasing", mode="before")
    @classmethod
    def _probability(cls, value: Any) -> Any:
        return {"probability": value} if isinstance(value, int | float) else value

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


class Loader(Section):
    """How images are read and decoded; results depend on nothing of it but the name."""

    name: Literal["vitstream", "mosaic"] = "vitstream"  # mosaic: mosaicml-streaming's own order, which proves less
    workers: Annotated[int, Field(ge=0)] = 8  # processes per rank; 0: the rank itself
    threads: Positive = 1  # that decode, of each worker
    prefetch: Positive = 4  # micro-batches that are made ahead of their use
    read_ahead: Positive = 16  # further micro-batches whose bytes are asked for before that
    reads: Positive = 8  # requests that each worker has under way
    memory: Bytes | None = None  # of compressed images, per rank; by default its share of a quarter of the machine's
    pixel_digest: bool = False  # of every batch's pixels, into the metrics: two runs trained on the same if it is equal


class Regularization(Section):
    dropout: Fraction = 0.0
    drop_path: Fraction = 0.0  # stochastic depth: rate of the last block, linear in depth
    patch_dropout: Fraction = 0.0  # share of an image's patches that a step does not see
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0  # of the gradient, over all parameters


class Config(Section):
    """Everything that a run is."""

    run_dir: Path
    data: Data
    model: Model
    batch_size: Positive  # global; the same on any number of GPUs
    micro_batch_size: Positive = 64  # at most this many images at once on a GPU; accumulation follows
    epochs: Positive | None = None
    steps: Positive | None = None
    resolution: tuple[Resolution, ...] = ()  # of the first steps; the rest is at model.image_size
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    precision: Literal["bf16", "fp32"] = "bf16"
    zero: str = "zero1"  # a template of ds_configs/, or a path
    engine: Engine = Engine()
    checkpoint: Checkpoint = Checkpoint()
    ema: Ema | None = None
    evaluate: Evaluate = Evaluate()
    augment: Augment = Augment()
    loader: Loader = Loader()
    loss: Literal["softmax", "sigmoid", "bce"] = "softmax"
    label_smoothing: Fraction = 0.0
    regularization: Regularization = Regularization()
    log_every: Positive = 20  # steps
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 10  # of an attempt; each is left out; above it the run stops
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    watchdog: Limits = Limits()
    sinks: Sinks = Sinks()
    slurm: Slurm | None = None
    preset: Preset | None = None  # what is told of the recipe that was extended

    @model_validator(mode="after")
    def _length(self) -> "Config":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("needs exactly one of epochs and steps")
        return self

    @model_validator(mode="after")
    def _falls(self) -> "Config":
        end, lr = self.schedule.end_lr, self.optimizer.lr
        if end > lr:
            raise ValueError(f"schedule.end_lr: {end:g} is above optimizer.lr, {lr:g}: a schedule comes down to it")
        return self

    @model_validator(mode="after")
    def _noise(self) -> "Config":
        noise = self.regularization
        for key in ("dropout", "drop_path", "patch_dropout"):
            if self.model.foreign is not None and getattr(noise, key):
                raise ValueError(
                    f"regularization.{key}: is of our own ViT; of {self.model.name} its config.json says it "
                    "(drop_path_rate, hidden_dropout_prob, as it has them)"
                )
        return self

    @model_validator(mode="after")
    def _levers(self) -> "Config":
        for key, value in self.engine:
            if self.model.foreign is not None and value != "auto" and value:
                raise ValueError(f"engine.{key}: is of our own ViT's blocks, not of {self.model.name}: leave it out")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> "Config":
        if self.resolution and self.model.foreign is not None:
            raise ValueError(f"resolution: is of our own ViT; {self.model.name} is trained at one size: leave it out")
        if self.resolution and self.loader.name == "mosaic":
            raise ValueError("resolution: loader.name: mosaic has images of one size only: take vitstream, or leave it")
        for number, phase in enumerate(self.resolution):
            if misfit := self.model.misfit(phase.image_size):
                raise ValueError(f"resolution.{number}: {misfit}")
            if number and phase.until <= (before := self.resolution[number - 1].until):
                raise ValueError(f"resolution.{number}.until: {phase.until:g} does not come after {before:g}")
        return self

    @model_validator(mode="after")
    def _pairs(self) -> "Config":
        if self.augment.mixes and self.batch_size == 1:
            raise ValueError("augment: mixup and cutmix mix pairs of a batch; with batch_size 1 there are none")
        if self.loader.name == "mosaic" and isinstance(self.data.train, tuple):
            raise ValueError("data.train: loader.name: mosaic reads one MDS folder, not a list")
        if self.evaluate.weights == "ema" and self.ema is None:
            raise ValueError("evaluate.weights: ema needs the average: give `ema: {decay: 0.9999}`, or take model")
        return self

    def total_samples(self, dataset_samples: int, step: int = 0, consumed: int = 0) -> int:
        """Samples that the whole run reads, repeats included, when `consumed` have been read in `step` steps so far.

        With `steps`, those to come count with today's batch size.
        """
        if self.epochs is not None:
            return self.epochs * dataset_samples
        return consumed + ((self.steps or 0) - step) * self.batch_size

    @property
    def hash(self) -> str:
        """SHA-256 of the configuration without `run_dir`, as a run's folder may be moved, and what is only told."""
        return hashlib.sha256(canonical_json(self.to_json(exclude={"run_dir", "preset", "sinks"}))).hexdigest()

    def to_json(self, exclude: set[str] | None = None) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=exclude)

    def to_checkpoint(self) -> dict[str, Any]:
        """As a checkpoint keeps it, which may be copied anywhere: without `run_dir`, and without credentials."""
        return without_credentials(self.to_json(exclude={"run_dir"}))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True)


def load_config(path: Path, overrides: Iterable[str] = (), elsewhere: bool = False) -> Config:
    """Reads RUN.yaml, resolves `extends`, applies `--set` overrides ("a.b=c", the value is YAML).

    `elsewhere`: a preset says neither where the data lies nor where the run does; both are made up where they miss.

    Raises:
        UsageError: one line that names the file and the key, and where it can, the fix.
    """
    tree = read_tree(path, overrides)
    preset = tree.get("preset")
    if elsewhere and isinstance(preset, dict):
        data = {"train": f"data/{str(preset.get('dataset')).lower().replace(' ', '-')}"}
        tree = merge({"run_dir": f"runs/{path.stem}", "data": data}, tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, Config)}") from None
    except UsageError as error:  # the model's name or numbers
        raise UsageError(f"{path}: {error}") from None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs between two configurations as JSON."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append((f"{prefix}{key}", before, after))
    return found
