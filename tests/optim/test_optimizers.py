"""What the optimizers that we build do in ten steps, against their papers' formulas in NumPy, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import load_config
from pipeline.config_optim import Optimizer
from pipeline.engine import build_model, build_optimizer
from pipeline.optim.groups import set_learning_rate
from pipeline.optim.schedule import learning_rate
from tests.runs import write_run

pytestmark = pytest.mark.fast
STEPS = 10


def adamw(w: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float, o: Optimizer) -> np.ndarray:
    """Algorithm 2 of "Decoupled Weight Decay Regularization" (arXiv 1711.05101), the decay times the learning rate."""
    m, v, (beta1, beta2) = np.zeros_like(w), np.zeros_like(w), o.betas
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        step = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + o.eps)
        w = w - lr * step - lr * decay * w
    return w


def sgd(w: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float, o: Optimizer) -> np.ndarray:
    """Momentum as in Sutskever et al., with the rate outside of it, as torch has it; the decay in the gradient."""
    momentum = np.zeros_like(w)
    for g, lr in zip(gradients, rates, strict=True):
        momentum = o.momentum * momentum + g + decay * w
        w = w - lr * momentum
    return w


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_ten_steps_equal_the_formulas(name: str, tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run.yaml",
        Path("x"),
        optimizer={"name": name, "lr": 0.01, "weight_decay": 0.3, "betas": [0.8, 0.95], "eps": 1e-6},
        schedule={"name": "cosine", "warmup_steps": 3, "end_lr": 1e-3},
    )
    config = load_config(run)
    model = build_model(config, 5)
    optimizer = build_optimizer(config.optimizer, model)
    random = np.random.default_rng(0)
    parameters = dict(model.named_parameters())
    first = {key: p.detach().double().numpy().copy() for key, p in parameters.items()}
    gradients = {
        key: [random.normal(size=w.shape) * 10.0 ** random.integers(-4, 2) for _ in range(STEPS)]
        for key, w in first.items()
    }
    rates = [learning_rate(config.schedule, config.optimizer.lr, step, STEPS) for step in range(1, STEPS + 1)]
    for step, rate in enumerate(rates):
        set_learning_rate(optimizer.param_groups, rate)
        for key, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradients[key][step]).float()
        optimizer.step()
    kernels = {key for key in first if key.endswith("weight") and "norm" not in key}
    assert 0 < len(kernels) < len(first)
    for key, parameter in parameters.items():
        decay = config.optimizer.weight_decay if key in kernels else 0.0
        expected = {"adamw": adamw, "sgd": sgd}[name](first[key], gradients[key], rates, decay, config.optimizer)
        error = np.linalg.norm(parameter.detach().double().numpy() - expected)
        assert error <= 1e-6 * np.linalg.norm(expected), key
