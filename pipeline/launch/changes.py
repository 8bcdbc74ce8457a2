"""What a changed configuration means to a run that goes on: nothing, something to confirm, or another run. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.config import Config, differences
from pipeline.config_model import FOREIGN
from pipeline.dataset.errors import UsageError
from pipeline.dataset.location import without_credentials

_SILENT = ("slurm", "watchdog", "sinks", "preset")  # no step is another for them
_START_ONLY = ("model.init", "model.head_bias")  # have done their work before step 1
# A checkpoint of other values of these does not fit: the weights' shapes, or the order in which samples are read.
_FIXED = ("model.", "seed", "loader.name")
# These go on without a word from the numbers that the checkpoint holds, and train something else: nobody does that by
# accident and wants it. What is changed on purpose all the time (learning rate, schedule, length, batch size, clipping,
# precision, ZeRO stage, where data lies) is only listed.
_HARMFUL = {
    "loss": "is another objective, whose values do not compare with those before",
    "label_smoothing": "is another objective, whose values do not compare with those before",
    "optimizer.name": "does not go on with the other optimizer's moments",
    "optimizer.betas": "takes moments for its own that were averaged with others",
    "optimizer.eps": "scales every step anew",
    "optimizer.weight_decay": "pulls the same weights elsewhere",
    "optimizer.momentum": "takes a momentum for its own that was averaged with another",
    "optimizer.groups": "moves or pulls some of the weights otherwise",
    "optimizer.layer_decay": "moves the lower blocks at other rates",
    "augment": "shows other images",
    "resolution": "shows images of other sizes",
    "regularization.dropout": "trains through other noise",
    "regularization.drop_path": "trains through other noise",
    "regularization.patch_dropout": "trains through other noise",
    "ema": "mixes two averages, or drops the one there is",
}


@dataclass(frozen=True)
class Change:
    """One key of the configuration that is not what it was at the newest checkpoint."""

    key: str
    before: Any
    after: Any
    kind: Literal["fixed", "harmful", "harmless"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def changes(before: dict[str, Any], config: Config) -> list[Change]:
    """What differs from a checkpoint's configuration, key by key. Credentials do not count, and are not shown."""
    found = differences(without_credentials(_completed(before)), config.to_checkpoint())
    return [_change(*each) for each in found if not each[0].startswith(_SILENT)]


def refuse_harmful(found: list[Change], accepted: bool) -> None:
    """Raises UsageError where a checkpoint could not be used, or not without `--accept-changes`."""
    for change in found:
        if change.kind == "fixed":
            raise UsageError(
                f"{change.key}: is {change.before} in this run's checkpoints and {change.after} now, which does not "
                "fit: change it back, or take another run_dir"
            )
    harmful = [change for change in found if change.kind == "harmful"]
    if harmful and not accepted:
        what = "; ".join(f"{change} {change.why}" for change in harmful)
        raise UsageError(f"{what}: change it back, or go on with --accept-changes")


def _change(key: str, before: Any, after: Any) -> Change:
    if key in _START_ONLY or (key == "model.layer_scale" and None not in (before, after)):  # whose first value it is
        return Change(key, before, after, "harmless")
    if key == "model.name" and str(before).startswith(FOREIGN) and str(after).startswith(FOREIGN):
        return Change(key, before, after, "harmless")  # a folder may be moved; what lies in it is compared by itself
    if key.startswith(_FIXED):
        return Change(key, before, after, "fixed")
    harmful = next((name for name in _HARMFUL if key == name or key.startswith(f"{name}.")), None)
    if harmful is None or (key == "ema" and before is None):  # an average that begins takes nothing away
        return Change(key, before, after, "harmless")
    return Change(key, before, after, "harmful", _HARMFUL[harmful])


def _completed(before: dict[str, Any]) -> dict[str, Any]:
    """With the keys that an older checkpoint lacks: what they do by default is what was done then."""
    try:
        return Config.model_validate(before | {"run_dir": "."}).to_json(exclude={"run_dir"})
    except (ValidationError, UsageError):  # it has keys that are no more
        return before
