"""Weights of our ViT <-> transformers.ViTForImageClassification, both directions.

transformers renamed its ViT's parameters between major versions 4 (also the hub's files) and 5; both are read,
and written as the receiving model names them. Its q, k and v are three layers, ours is one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import torch
from torch import Tensor

from pipeline.dataset.errors import UsageError

_WRAPPERS = ("module.", "model.", "_orig_mod.")
_TOP = {  # ours -> theirs, the same in both versions
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}
_BLOCK_4 = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.q": "attention.attention.query",
    "attention.k": "attention.attention.key",
    "attention.v": "attention.attention.value",
    "attention.out": "attention.output.dense",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
}
_BLOCK_5 = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.q": "attention.q_proj",
    "attention.k": "attention.k_proj",
    "attention.v": "attention.v_proj",
    "attention.out": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ViTForImageClassification's state dict (version 4 or 5) -> ours.

    Raises:
        UsageError: a parameter that a plain ViT classifier does not have.
    """
    names = {theirs: ours for ours, theirs in _names(_depth(state), _is_version_4(state)).items()}
    unknown = sorted(state.keys() - names.keys())
    if unknown:
        raise UsageError(f"not a plain ViT classifier of transformers: unexpected parameter {unknown[0]}")
    split = {names[theirs]: tensor for theirs, tensor in state.items()}
    return _fuse(split)


def to_huggingface(state: Mapping[str, Tensor], receiving: Iterable[str]) -> dict[str, Tensor]:
    """Our state dict (class token, no pre-logits layer) -> one with the names of the `receiving` model.

    Raises:
        UsageError: ours has a part that transformers' ViT does not (hub.py's `refusal` names the key), or lacks one.
    """
    if "cls_token" not in state or "pre_logits.weight" in state:
        raise UsageError("transformers' ViT classifies from a class token and has no pre-logits layer")
    receiving = set(receiving)
    split = _unfuse(state)
    names = _names(_depth(receiving), _is_version_4(receiving))
    if other := sorted(split.keys() ^ names.keys()):
        raise UsageError(f"transformers' ViT differs from this one in {other[0]}")
    return {names[ours]: tensor for ours, tensor in split.items()}


def places(theirs: Mapping[str, Sequence[int]], ours: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, int]]:
    """Where another trainer's parameters go, by shapes: name -> (our name, its first element there, flattened).

    Ours are taken as they are, transformers' (version 4 or 5) by their names; prefixes that wrappers add to all names
    are left out. Its q, k and v are the three parts of our one.

    Raises:
        UsageError: a parameter that has no place, or not its shape, or a place that none fills.
    """
    found = {}
    bare = _without_wrappers(theirs)
    split = {name: name for name in ours}
    if not bare.keys() <= ours.keys():
        split = {hub: name for name, hub in _names(_depth(bare), _is_version_4(bare)).items()}
    for short, full in bare.items():
        name, first = _fused(split.get(short, short))
        if name not in ours:
            raise UsageError(f"{full}: no parameter of this model, nor of transformers' ViT: compare model.name, depth")
        shape = list(ours[name])
        if first is not None:
            shape[0] //= 3
        if list(theirs[full]) != shape:
            raise UsageError(f"{full}: {list(theirs[full])} there, {shape} in this model: compare model.name, width")
        found[full] = (name, (first or 0) * math.prod(shape))
    if missing := sorted(ours.keys() - {name for name, _ in found.values()}):
        raise UsageError(f"{missing[0]}: not in it: compare model.name, depth, pooling and representation_size")
    return found


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Bare name -> full name."""
    bare = {name: name for name in names}
    for prefix in cycle(_WRAPPERS):
        if not any(all(name.startswith(p) for name in bare) for p in _WRAPPERS):
            return bare
        if all(name.startswith(prefix) for name in bare):
            bare = {name.removeprefix(prefix): full for name, full in bare.items()}
    return bare


def _fused(name: str) -> tuple[str, int | None]:
    """(our name, which third of it) of one of ours with q, k and v apart."""
    part = _part(name)
    return (name, None) if part is None else (name.replace(f".attention.{part}.", ".attention.qkv."), "qkv".index(part))


def hub_names(depth: int) -> set[str]:
    """Parameters of a ViTForImageClassification as the hub's files name them; transformers 4 and 5 both load these."""
    return set(_names(depth, version_4=True).values())


def _names(depth: int, version_4: bool) -> dict[str, str]:
    """ours (with q, k, v apart) -> theirs, for every parameter of a model of this depth."""
    prefix, block = ("vit.encoder.layer", _BLOCK_4) if version_4 else ("vit.layers", _BLOCK_5)
    layers = {f"blocks.{i}.{ours}": f"{prefix}.{i}.{theirs}" for i in range(depth) for ours, theirs in block.items()}
    names = {}
    for ours, theirs in (_TOP | layers).items():
        if ours in ("cls_token", "pos_embed"):
            names[ours] = theirs
        else:
            names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return names


def _is_version_4(names: Iterable[str]) -> bool:
    return any(name.startswith("vit.encoder.layer.") for name in names)


def _depth(names: Iterable[str]) -> int:
    markers = ("layernorm_before.weight",)
    return sum(name.endswith(markers) for name in names)


def _fuse(split: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fused = {name: tensor for name, tensor in split.items() if not _part(name)}
    for name in split:
        if _part(name) == "q":
            parts = [split[name.replace(".attention.q.", f".attention.{p}.")] for p in "qkv"]
            fused[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat(parts)
    return fused


def _unfuse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attention.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{part}.")] = piece
        else:
            split[name] = tensor
    return split


def _part(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[-2] if len(pieces) > 2 and pieces[-3] == "attention" and pieces[-2] in ("q", "k", "v") else None
