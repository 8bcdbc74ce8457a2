"""Names and shapes of a model's parameters, in the model's order, as arithmetic. Torch-free."""

from pipeline.config import Config
from pipeline.models.architecture import vit_config
from pipeline.models.resnet import ResNet
from pipeline.models.variants import ViTConfig

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: Config, classes: int) -> Shapes | None:
    """What `named_parameters` of the model of a run gives; None of a model of transformers, which has to be built."""
    return None if config.model.foreign is not None else vit_shapes(vit_config(config, classes))


def vit_shapes(config: ViTConfig) -> Shapes:
    """Of models/vit.py; tests compare the two."""
    v = config.variant
    width, tokens = v.width, config.class_tokens
    shapes: Shapes = {"cls_token": (1, 1, width)} if tokens else {}
    if config.pos_embed == "learned":
        shapes |= {"pos_embed": (1, tokens + config.patches, width)}
    if config.registers:
        shapes |= {"register_tokens": (1, config.registers, width)}
    if v.resnet is not None:
        shapes |= {f"backbone.{name}": shape for name, shape in _backbone(v.resnet).items()}
    channels, side = v.embedded
    shapes |= {"patch_embed.weight": (width, channels, side, side), "patch_embed.bias": (width,)}
    block = _block(config)
    for number in range(v.depth):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    shapes |= _norm("norm", width)
    if config.pooling == "map":
        shapes |= _map_head(config)
    if config.representation_size:
        shapes |= _dense("pre_logits", width, config.representation_size)
    return shapes | _dense("head", config.representation_size or width, config.classes)


def _backbone(resnet: ResNet) -> Shapes:
    shapes: Shapes = {"conv.weight": (resnet.embedding_size, 3, 7, 7)} | _norm("norm", resnet.embedding_size)
    for unit in resnet.units(image_size=64):
        name = f"stages.{unit.stage}.{unit.number}"
        layers = [("1", unit.inputs, unit.middle, 1), ("2", unit.middle, unit.middle, 3)]
        layers.append(("3", unit.middle, unit.outputs, 1))
        if unit.is_first:
            layers.append(("_shortcut", unit.inputs, unit.outputs, 1))
        for which, inputs, outputs, kernel in layers:
            shapes |= {f"{name}.conv{which}.weight": (outputs, inputs, kernel, kernel)}
            shapes |= _norm(f"{name}.norm{which}", outputs)
    return shapes


def _block(config: ViTConfig) -> Shapes:
    v, width = config.variant, config.variant.width
    of_head: Shapes = {f"attention.{name}.weight": (width // v.heads,) for name in ("q_norm", "k_norm")}
    scaled = config.layer_scale is not None
    return (
        _norm("norm1", width)
        | _dense("attention.qkv", width, 3 * width)
        | (of_head if config.qk_norm else {})
        | _dense("attention.out", width, width)
        | ({"scale1.scale": (width,)} if scaled else {})
        | _norm("norm2", width)
        | _mlp("mlp", width, v.mlp_dim)
        | ({"scale2.scale": (width,)} if scaled else {})
    )


def _map_head(config: ViTConfig) -> Shapes:
    width = config.variant.width
    return (
        {"pool.probe": (1, 1, width)}
        | _dense("pool.q", width, width)
        | _dense("pool.kv", width, 2 * width)
        | _dense("pool.out", width, width)
        | _norm("pool.norm", width)
        | _mlp("pool.mlp", width, config.variant.mlp_dim)
    )


def _mlp(name: str, width: int, mlp_dim: int) -> Shapes:
    return _dense(f"{name}.up", width, mlp_dim) | _dense(f"{name}.down", mlp_dim, width)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _dense(name: str, from_: int, to: int) -> Shapes:
    return {f"{name}.weight": (to, from_), f"{name}.bias": (to,)}
