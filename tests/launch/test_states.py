"""What `plan` says of the model against the model itself, and against ZeRO's own arithmetic."""

import math
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.engine import build_model
from pipeline.launch.saving import saving_of
from pipeline.launch.states import model_states
from pipeline.models.architecture import parameters
from pipeline.models.shapes import parameter_shapes
from tests.runs import write_run

H14 = 632_045_800  # ViT-H/14 with 1000 classes, as transformers counts it


def config_of(folder: Path, **overrides: object):
    return load_config(write_run(folder / "run.yaml", Path("x"), **overrides))


@pytest.mark.fast
@pytest.mark.parametrize(
    "model",
    [
        {"name": "vit-ti/16", "image_size": 32},
        {"name": "vit-s/8", "image_size": 40, "pooling": "gap", "depth": 2},
        {"name": "vit-ti/8", "image_size": 32, "representation_size": 48, "width": 64, "heads": 2, "mlp_dim": 100},
        {"name": "vit-ti/16", "image_size": 32, "pooling": "map", "mlp_dim": 100, "depth": 2},
        {"name": "vit-ti/16", "image_size": 32, "pooling": "map", "representation_size": 48, "pos_embed": "sincos2d"},
        {"name": "vit-ti/16", "image_size": 32, "registers": 4, "layer_scale": 1.0e-4, "qk_norm": True, "depth": 2},
        {"name": "vit-ti/16", "image_size": 32, "pooling": "gap", "pos_embed": "none", "registers": 1},
        {"name": "r50+vit-ti/16", "image_size": 32, "depth": 1},
        {"name": "r50+vit-ti/32", "image_size": 64, "depth": 1, "pooling": "gap"},
    ],
)
def test_parameters_are_counted_as_the_model_has_them(model: dict, tmp_path: Path) -> None:
    config = config_of(tmp_path, model=model)
    built = {name: tuple(each.shape) for name, each in build_model(config, 7).named_parameters()}
    assert list(parameter_shapes(config, 7).items()) == list(built.items())
    assert parameters(config, 7) == sum(math.prod(shape) for shape in built.values())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("zero", "accumulation", "per_parameter", "per_parameter_on_host"),
    [
        ("zero1", 1, 2 + 2 + 12 / 8, 0),
        ("zero2", 1, 2 + (2 + 12) / 8, 0),
        ("zero2", 4, 2 + (4 + 12) / 8, 0),
        ("zero3", 1, (2 + 2 + 12) / 8, 0),
        ("zero3_offload", 1, (2 + 2) / 8, 12 / 8),
    ],
)
def test_bytes_of_eight_ranks(zero, accumulation, per_parameter, per_parameter_on_host, tmp_path: Path) -> None:
    config = config_of(tmp_path, model={"name": "vit-h/14"}, zero=zero, precision="bf16")
    states = model_states(config, 1000, ranks=8, accumulation=accumulation)
    assert states.parameters == H14
    assert states.gpu == pytest.approx(per_parameter * H14, rel=1e-6)
    assert states.host == pytest.approx(per_parameter_on_host * H14, rel=1e-6)


@pytest.mark.fast
def test_an_average_costs_four_bytes_of_a_share(tmp_path: Path) -> None:
    model = {"name": "vit-h/14"}
    plain, averaged = (
        model_states(config_of(tmp_path, model=model, zero="zero1", precision="bf16", ema=ema), 1000, 8, 1)
        for ema in (None, {"decay": 0.9999})
    )
    assert averaged.gpu - plain.gpu == pytest.approx(4 * H14 / 8, rel=1e-6)


@pytest.mark.fast
def test_sgd_keeps_one_moment(tmp_path: Path) -> None:
    config = config_of(tmp_path, model={"name": "vit-h/14"}, precision="bf16", optimizer={"name": "sgd"})
    assert model_states(config, 1000, 8, 1).gpu == pytest.approx((2 + 2 + 8 / 8) * H14, rel=1e-6)
    assert saving_of(config, 1000, 10, 8).each == 8 * H14
