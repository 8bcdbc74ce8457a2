"""Reads a native DeepSpeed ZeRO checkpoint, which is a pickle: always in a process of its own, and only when trusted.

    python -m pipeline.checkpoint.native DIR OUT < shapes.json

`shapes` maps our parameters to their shapes. OUT gets KIND.safetensors with whole float32 tensors "KIND/NAME" under our
names, and native.json: what else is known, or `refused` and why. The one place in which anything is unpickled.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.files import write_slices
from pipeline.checkpoint.state import WEIGHT, Slice
from pipeline.checkpoint.zero_layout import Part, parts_of_stage_1_2, parts_of_stage_3
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json
from pipeline.dataset.processes import die_with
from pipeline.engine import import_deepspeed
from pipeline.models.huggingface import places
from pipeline.optim.masters import MOMENTS

RESULT = "native.json"
_OPTIMIZER_FILE = re.compile(r"(?:[a-z0-9]+_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_?optim_states\.pt")
_BF16_STAGE = 1  # of DeepSpeed's BF16_Optimizer, which does not say it
_HYPERPARAMETERS = ("lr", "weight_decay", "betas", "eps")
_POSITIONS = ("step", "global_steps", "skipped_steps", "consumed", "consumed_samples", "global_samples")


@dataclass(frozen=True)
class Rank:
    """One rank's share of the optimizer: for each group a flat tensor per kind, and how it is laid out."""

    rank: int
    ranks: int
    stage: int
    flats: list[dict[str, Tensor]]  # kind -> float32 [elements of this rank]
    partitions: list[int]  # elements of a flat, padding included
    paddings: list[Sequence[int]] | None  # after each parameter of each group, where there are any
    step: int | None
    groups: list[dict[str, Any]]  # hyperparameters

    def parts(self, group: int, elements: Mapping[str, int]) -> Iterator[Part]:
        if self.stage == 3:
            return parts_of_stage_3(elements, self.ranks, self.rank)
        paddings = self.paddings[group] if self.paddings else [0] * len(elements)
        return parts_of_stage_1_2(elements, paddings, self.partitions[group], self.rank)


def convert(directory: Path, out: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Writes the three files of tensors. Returns their entries for a manifest, and what else is known.

    Raises:
        UsageError: not such a checkpoint, or one that does not fit `shapes`.
    """
    files = _optimizer_files(directory)
    model = _load(_model_file(directory))
    groups = [{name: tuple(shape) for name, shape in group.items()} for group in model["param_shapes"] or []]
    if frozen := list(model.get("frozen_param_shapes") or {}):
        raise UsageError(f"{frozen[0]}: was frozen there, so it has no optimizer state")
    theirs = {name: shape for group in groups for name, shape in group.items()}
    placed = places(theirs, shapes)
    first, written = _rank(files[0], 0, len(files)), []
    for kind in (WEIGHT, *MOMENTS):  # one after the other: a third of the memory
        tensors = {name: torch.full(list(shape), math.nan) for name, shape in shapes.items()}
        for number, file in enumerate(files):
            _copy(_rank(file, number, len(files)), kind, groups, placed, tensors)
        if unfilled := [name for name, tensor in tensors.items() if tensor.isnan().any()]:
            raise UsageError(f"{unfilled[0]}: part of its {kind} is missing, or not a number")
        whole = [Slice(name, tuple(t.shape), 0, t.numel(), {kind: t.view(-1)}) for name, t in tensors.items()]
        written.append(write_slices(out / f"{kind}.safetensors", whole))
    return {
        "files": [file for file, _ in written],
        "tensors": {key: where for _, pieces in written for key, where in pieces.items()},
        "stage": first.stage,
        "ranks": first.ranks,
        "optimizer_step": first.step,
        "positions": {key: int(model[key]) for key in _POSITIONS if isinstance(model.get(key), int)},
        "deepspeed": str(model.get("ds_version", "unknown")),
        "groups": [group | {"names": [placed[name][0] for name in names]} for group, names in _named(first, groups)],
    }


def _copy(
    rank: Rank,
    kind: str,
    groups: Sequence[Mapping[str, Sequence[int]]],
    placed: Mapping[str, tuple[str, int]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Copies one rank's elements of a kind to where they belong."""
    if len(rank.flats) != len(groups):
        raise UsageError(f"rank {rank.rank}: has {len(rank.flats)} groups, the model's file names {len(groups)}")
    for group, shapes in enumerate(groups):
        flat = rank.flats[group][kind].view(-1)
        for part in rank.parts(group, {name: math.prod(shape) for name, shape in shapes.items()}):
            ours, first = placed[part.name]
            values = flat[part.offset : part.offset + part.stop - part.start]
            tensors[ours].view(-1)[first + part.start : first + part.stop] = values.float()


def _rank(file: Path, rank: int, ranks: int) -> Rank:
    state = _load(file)["optimizer_state_dict"]
    stage = int(state.get("zero_stage", _BF16_STAGE))
    if stage not in (1, 2, 3):
        raise UsageError(f"{file.name}: of ZeRO stage {stage}; 1, 2 and 3 can be read")
    counts = state["partition_count"]
    if (most := max(counts) if isinstance(counts, list | tuple) else counts) != ranks:
        raise UsageError(f"{file.parent}: {ranks} optimizer files of {most}; the others are missing")
    weights = state["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]
    inner = state["optimizer_state_dict" if stage == 3 else "base_optimizer_state"]
    moments, groups = (inner["state"], inner["param_groups"]) if isinstance(inner, dict) else (inner, [])
    flats, steps = [], [group["step"] for group in groups if "step" in group]
    for number, weight in enumerate(weights):
        if any(moment not in moments[number] for moment in MOMENTS):
            raise UsageError(f"{file.name}: its optimizer has no exp_avg and exp_avg_sq; it has to be Adam or AdamW")
        flats.append({WEIGHT: weight.detach()} | {moment: moments[number][moment] for moment in MOMENTS})
        steps += [moments[number]["step"]] if "step" in moments[number] else []
    return Rank(
        rank,
        ranks,
        stage,
        flats,
        _partitions(state, flats),
        state.get("param_alignment_paddings"),
        int(steps[0]) if steps else None,
        [{key: group[key] for key in _HYPERPARAMETERS if key in group} for group in groups],
    )


def _partitions(state: Mapping[str, Any], flats: Sequence[Mapping[str, Tensor]]) -> list[int]:
    """Elements of a rank's share of each group at stages 1 and 2, padding included.

    The padding at the end was cut off the weights, and, of an elastic checkpoint, off the moments too.
    """
    if isinstance(state.get("base_optimizer_state"), dict):
        return [max(values.numel() for values in flat.values()) for flat in flats]
    paddings = state.get("group_paddings") or [0] * len(flats)
    return [flat[WEIGHT].numel() + padding for flat, padding in zip(flats, paddings, strict=False)]


def _named(
    rank: Rank, groups: Sequence[Mapping[str, Sequence[int]]]
) -> Iterator[tuple[dict[str, Any], Mapping[str, Sequence[int]]]]:
    """Hyperparameters with the parameters they are for; nothing where stage 3 cut the groups into smaller ones."""
    return zip(rank.groups, groups, strict=True) if len(rank.groups) == len(groups) else iter(())


def _optimizer_files(directory: Path) -> list[Path]:
    found = {}
    for path in directory.iterdir():
        if match := _OPTIMIZER_FILE.fullmatch(path.name):
            if int(match[2]) != 0:
                raise UsageError(f"{path.name}: of a model-parallel run; only data-parallel ones can be read")
            found[int(match[1])] = path
    if not found or sorted(found) != list(range(len(found))):
        what = "a gap in its zero_pp_rank_N files" if found else "no zero_pp_rank_*_optim_states.pt in it"
        raise UsageError(f"{directory}: {what}; stages 1 to 3 write one per rank")
    return [found[rank] for rank in sorted(found)]


def _model_file(directory: Path) -> Path:
    names = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
    if not (found := [directory / name for name in names if (directory / name).is_file()]):
        raise UsageError(f"{directory}: has neither {' nor '.join(names)}")
    return found[0]


def _load(path: Path) -> dict[str, Any]:
    """Memory-mapped: what is not used is not read."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


def main(directory: Path, out: Path) -> None:
    """Leaves its answer in OUT/native.json: what unpickles may print what it likes."""
    die_with(os.getppid())
    shapes = json.load(sys.stdin)
    import_deepspeed()
    try:
        write_json(out / RESULT, convert(directory, out, shapes))
    except UsageError as error:
        write_json(out / RESULT, {"refused": str(error)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
