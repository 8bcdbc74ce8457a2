"""Which parameters decay."""

from torch import nn

from pipeline.config import Optimizer


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Two groups for AdamW: kernels decay; biases, norms, the class token and position embeddings do not."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_kernel = parameter.ndim >= 2 and name not in ("cls_token", "pos_embed")
        (decayed if is_kernel else plain).append(parameter)
    return [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": plain, "weight_decay": 0.0}]
