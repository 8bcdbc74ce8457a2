"""`model.init`: a fresh run's weights from elsewhere. Read once, before step 1; a resume has no use for it.

What is kept is kept exactly. Two things may differ, as in the ViT paper's fine-tuning: the classes (the head then
starts as the model's own initialisation) and the resolution (the positions are resized). All else must fit.
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.manifest import Damaged
from pipeline.checkpoint.source import KEY, Source, open_source
from pipeline.checkpoint.verify import verify
from pipeline.dataset.errors import UsageError
from pipeline.models.huggingface import from_huggingface
from pipeline.models.posemb import resize_positions

_HEAD, _PRE_LOGITS = ("head.weight", "head.bias"), ("pre_logits.weight", "pre_logits.bias")
_POOLER = {f"vit.pooler.dense.{kind}": f"pre_logits.{kind}" for kind in ("weight", "bias")}  # dense and tanh, both


def start_from(place: Path, model: nn.Module, heads: int, classes: tuple[str, ...]) -> list[str]:
    """Copies the weights of `place` into a ViT on the CPU.

    Args:
        place: a Hugging Face folder, an exported file, or a checkpoint's folder.
        model: ours, initialised.
        heads: its attention heads, which no tensor's shape shows.
        classes: the names of the classes that it is to learn.

    Returns:
        What was not simply copied, a line each.

    Raises:
        UsageError: not readable, or a tensor that does not fit, named.
    """
    source = open_source(place)
    if source.heads != heads:
        raise UsageError(f"{KEY}: {place} has {source.heads} attention heads, this model {heads}: set model.heads")
    fitted, notes = fit(_read(source), model.state_dict(), source.classes, classes)
    for name, tensor in model.state_dict().items():
        fitted.setdefault(name, tensor)
    model.load_state_dict(fitted)
    if source.layer_norm_eps != 1e-6:
        notes.append(f"its layer norms were made with eps {source.layer_norm_eps:g}, ours have 1e-06")
    return [f"starts from {place}", *(f"{place}: {note}" for note in notes)]


def fit(
    state: dict[str, Tensor], ours: dict[str, Tensor], their_classes: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], list[str]]:
    """(what to load, what was changed, a line each) of a state dict with our names, for a model with `ours`.

    The head is left out where its classes are others. Raises UsageError naming a tensor that does not fit.
    """
    state, notes = dict(state), []
    other = _other_head(state, ours, their_classes, classes)
    if other:
        left_out = _HEAD if "pre_logits.weight" in ours else _HEAD + _PRE_LOGITS
        state = {name: tensor for name, tensor in state.items() if name not in left_out}
        notes.append(f"{other}: the head starts fresh")
    positions, own = state.get("pos_embed"), ours.get("pos_embed")
    if positions is not None and own is not None and ("cls_token" in state) == ("cls_token" in ours):
        prefix, wanted = int("cls_token" in ours), own.shape[1]
        if positions.shape[1] != wanted:
            notes.append(f"{positions.shape[1] - prefix:,} position embeddings resized to {wanted - prefix:,}")
            state["pos_embed"] = resize_positions(positions, wanted, prefix)
    for name in sorted(state.keys() | (ours.keys() - set(_HEAD if other else ()))):
        if name not in ours:
            raise UsageError(
                f"{KEY}: {name} has no place in this model: compare model.name, depth, pooling and pos_embed"
            )
        if name not in state:
            raise UsageError(
                f"{KEY}: {name} is missing there: compare model.name, depth, pooling, pos_embed and representation_size"
            )
        if state[name].shape != ours[name].shape:
            shapes = f"{list(state[name].shape)} there, {list(ours[name].shape)} in this model"
            raise UsageError(f"{KEY}: {name} is {shapes}: compare model.name, width and mlp_dim")
    return {name: tensor.float() for name, tensor in state.items()}, notes


def _other_head(
    state: dict[str, Tensor], ours: dict[str, Tensor], their_classes: tuple[str, ...], classes: tuple[str, ...]
) -> str | None:
    """Why the head cannot be taken over, or None."""
    if "head.bias" not in state:
        return "it has no head"
    if "pre_logits.weight" in state and "pre_logits.weight" not in ours:
        return "its pre-logits layer is left out"
    if (count := len(state["head.bias"])) != len(classes):
        return f"its head has {count:,} classes, this data {len(classes):,}"
    return "its classes have other names" if their_classes and their_classes != classes else None


def _read(source: Source) -> dict[str, Tensor]:
    """All weights, with our names."""
    if source.manifest is not None:
        try:
            return TensorReader(source.path, verify(source.path)).weights()
        except (Damaged, UsageError) as error:
            raise UsageError(f"{KEY}: {error}") from None
    state: dict[str, Tensor] = {}
    for file in source.files:
        try:
            state |= load_file(file)
        except Exception as error:  # of the safetensors library, which has no one type for it
            raise UsageError(f"{KEY}: {file}: not a readable safetensors file ({error})") from None
    return state if source.is_ours else _from_hub(state)


def _from_hub(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Also of a bare ViTModel, whose pooler is the paper's pre-logits layer."""
    if "embeddings.cls_token" in state:
        state = {f"vit.{name}": tensor for name, tensor in state.items()}
    state.pop("vit.embeddings.mask_token", None)
    pooler = {_POOLER[name]: state.pop(name) for name in _POOLER if name in state}
    try:
        return from_huggingface(state) | pooler
    except UsageError as error:
        raise UsageError(f"{KEY}: {error}") from None
    except KeyError as missing:
        raise UsageError(f"{KEY}: {missing.args[0]} is missing there") from None
