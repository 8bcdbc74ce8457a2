"""`vitstream checkpoint import`: a native DeepSpeed ZeRO checkpoint becomes the first checkpoint of a run."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint.manifest import CheckpointManifest, published, step_name
from pipeline.checkpoint.native import RESULT
from pipeline.config import Config
from pipeline.data.corpus import Corpus, fit_order
from pipeline.data.ledger import Ledger
from pipeline.data.stretches import begun, resumed
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import fsync_directory, is_plain_name, write_private
from pipeline.launch.preflight import open_data
from pipeline.models.architecture import vit_config
from pipeline.models.vit import ViT
from pipeline.optim.groups import parameter_groups
from pipeline.run.directory import RunDirectory
from pipeline.run.environment import code_version


@dataclass(frozen=True)
class Adopted:
    """The checkpoint that was made, and what of the other trainer's state it does not go on with."""

    checkpoint: str
    step: int
    consumed: int  # samples, as this run counts on from
    stage: int  # there
    ranks: int  # there
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.checkpoint}: weights and optimizer state of ZeRO stage {self.stage} on {self.ranks} ranks, after "
            f"step {self.step:,} and {self.consumed:,} samples; vitstream train goes on from it"
        )
        yield from self.notes


def adopt(native: Path, config: Config, trust: bool, step: int | None, samples: int | None) -> Adopted:
    """Makes the first checkpoint of the run `config` out of what DeepSpeed's `save_checkpoint` wrote.

    Args:
        native: the folder of one tag, or the folder with `latest` in it.
        config: the run, which must not have a checkpoint yet.
        trust: that what the pickles do when they are read is meant to be done.
        step: optimizer steps done, if not what the checkpoint says.
        samples: used, if not what the checkpoint says.

    Raises:
        UsageError: not such a checkpoint, one that does not fit, not trusted, or a run under way.
        WorkFailed: it cannot be read, or the run's folder not be written.
    """
    directory = _tagged(native)
    if not trust:
        raise UsageError(
            f"{native}: DeepSpeed's checkpoints are pickles: reading one runs whatever program is in it. "
            "If you trust whoever wrote it, add --trust"
        )
    if config.loader.name == "mosaic":
        raise UsageError("loader.name: mosaic keeps a position of its own, which cannot be made up; take vitstream")
    if config.optimizer.name != "adamw":
        raise UsageError(f"optimizer.name: {config.optimizer.name}: what is imported are Adam's moments; take adamw")
    if config.model.foreign is not None:
        raise UsageError(f"model.name: {config.model.name}: only checkpoints of our own ViT are imported")
    corpus, _ = open_data(config, world_size=1)
    run = RunDirectory(config.run_dir)
    run.create()
    run.own()
    run.sign(socket.gethostname())
    if there := published(run.checkpoints):
        raise UsageError(f"run_dir: {run.path} has checkpoints already, {there[-1].name} the newest: take another")
    with torch.device("meta"):
        model = ViT(vit_config(config, len(corpus.classes)))
    temporary = run.checkpoints / f"{step_name(0)}.tmp-import"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        found = _converted(directory, temporary, {name: list(p.shape) for name, p in model.named_parameters()})
        manifest, notes = _manifest(config, corpus, model, found, step, samples)
        manifest.write(temporary)
        temporary.rename(run.checkpoints / step_name(manifest.step))
        fsync_directory(run.checkpoints)
        run.published_file.write(manifest.step)
        write_private(run.config, config.to_yaml().encode())
    except OSError as error:
        raise WorkFailed(f"{run.path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    name = step_name(manifest.step)
    return Adopted(name, manifest.step, manifest.consumed, found["stage"], found["ranks"], tuple(notes))


def _tagged(native: Path) -> Path:
    """The folder of a tag: `native`, or the one that its `latest` names."""
    if not native.is_dir():
        raise UsageError(f"{native}: no such folder")
    if not (native / "latest").is_file():
        return native
    tag = (native / "latest").read_text(errors="replace").strip()
    if not is_plain_name(tag) or not (native / tag).is_dir():
        raise UsageError(f"{native}/latest: names {tag!r}, which is not there: give the folder of another step")
    return native / tag


def _converted(directory: Path, out: Path, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Has a child process, which dies with us, read the pickles."""
    command = [sys.executable, "-P", "-m", "pipeline.checkpoint.native", str(directory.absolute()), str(out.absolute())]
    done = subprocess.run(command, input=json.dumps(shapes), capture_output=True, text=True)
    result = out / RESULT
    if not result.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise WorkFailed(f"{directory}: cannot be read: {last}")
    found = json.loads(result.read_bytes())
    result.unlink()
    if "refused" in found:
        raise UsageError(f"{directory}: {found['refused']}")
    return found


def _manifest(
    config: Config, corpus: Corpus, model: ViT, found: dict[str, Any], step: int | None, samples: int | None
) -> tuple[CheckpointManifest, list[str]]:
    """The checkpoint's manifest, and what the user should know, a line each."""
    positions, notes = found["positions"], list(_differences(config, model, found["groups"]))
    done = next((n for n in (step, positions.get("step"), positions.get("global_steps")) if n is not None), None)
    if done is None:
        raise UsageError("it does not say how many steps were done: give --step")
    known = (samples, *(positions.get(key) for key in ("consumed", "consumed_samples", "global_samples")))
    used = next((n for n in known if n is not None), done * config.batch_size)
    consumed, place = _epoch_begun(corpus, used)
    optimizer_step = found["optimizer_step"]
    if optimizer_step is None:
        optimizer_step = positions.get("global_steps", done) - positions.get("skipped_steps", 0)
    manifest = CheckpointManifest(
        step=done,
        optimizer_step=optimizer_step,
        consumed=consumed,
        world_size=found["ranks"],
        zero_stage=found["stage"],
        precision=config.precision,
        config=config.to_checkpoint(),
        config_hash=config.hash,
        parent=None,
        data={
            "fingerprint": corpus.fingerprint,
            "order": fit_order(corpus, config.batch_size, config.seed).to_json(),
            "ledger": Ledger().to_json(),
            "stretches": resumed(begun(config.batch_size), done, consumed, config.batch_size),
            "imported": {"deepspeed": found["deepspeed"], "samples": used},
        },
        files=found["files"],
        shapes={name: list(parameter.shape) for name, parameter in model.named_parameters()},
        tensors=found["tensors"],
        classes=list(corpus.classes),
        code=code_version(),
    )
    return manifest, [*place, *notes]


def _epoch_begun(corpus: Corpus, used: int) -> tuple[int, list[str]]:
    """Where this run's order can go on after `used` samples: at the beginning of an epoch; and why."""
    if corpus.weights is not None:
        lines = ["a mixture's datasets have epochs of their own, which begin anew"] if used else []
        return 0, lines
    epoch, position = divmod(used, corpus.samples)
    if not position:
        return used, []
    unknown = f"{position:,} samples of epoch {epoch} had been used; which ones is not known here"
    return epoch * corpus.samples, [f"{unknown}, so this run begins epoch {epoch} anew"]


def _differences(config: Config, model: ViT, theirs: list[dict[str, Any]]) -> Iterator[str]:
    """Hyperparameters of theirs that are others in RUN.yaml, which is what counts from here on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, config.optimizer)
    ours = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    for key in ("betas", "eps"):
        value = getattr(config.optimizer, key)
        value = list(value) if key == "betas" else value
        if other := next((group[key] for group in theirs if key in group and group[key] != value), None):
            yield f"optimizer.{key}: {other} there, {value} from here on"
    decays = {name: group["weight_decay"] for group in theirs if "weight_decay" in group for name in group["names"]}
    if changed := [name for name, decay in decays.items() if name in ours and ours[name] != decay]:
        first = f"{changed[0]}: {decays[changed[0]]:g} there, {ours[changed[0]]:g} from here on"
        yield f"weight decay of {len(set(changed)):,} parameters differs, as of {first}"
