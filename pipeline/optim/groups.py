"""Which parameters decay."""

from torch import nn

from pipeline.config import Optimizer


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Two groups for AdamW: kernels decay; biases, norms, the class token and position embeddings do not.

    Each group carries the names of its parameters, in order, under "names": the checkpoint's key to the flat
    partitions that ZeRO makes of it.
    """
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_kernel = parameter.ndim >= 2 and name not in ("cls_token", "pos_embed")
        (decayed if is_kernel else plain).append((name, parameter))
    return [
        {"names": [n for n, _ in pairs], "params": [p for _, p in pairs], "weight_decay": decay}
        for pairs, decay in ((decayed, optimizer.weight_decay), (plain, 0.0))
    ]
