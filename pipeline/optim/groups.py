"""Which parameters decay."""

from typing import Final

from torch import nn

from pipeline.config import Optimizer

# Of ours and of transformers' models: learned inputs, which are no kernels however many dimensions they have.
TOKENS: Final = ("cls_token", "pos_embed", "register_tokens", "probe", "position_embeddings", "distillation_token")


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Two groups for AdamW: kernels decay; biases, norms, factors, tokens and position embeddings do not."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_kernel = parameter.ndim >= 2 and name.rpartition(".")[2] not in TOKENS
        (decayed if is_kernel else plain).append(parameter)
    return [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": plain, "weight_decay": 0.0}]
