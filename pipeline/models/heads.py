"""What turns a ViT's tokens into one vector, beyond a class token and an average: attention pooling."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.variants import Variant


class Mlp(nn.Module):
    """Dense, GELU, dense, with dropout after both: [..., D] -> [..., D]."""

    def __init__(self, width: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, mlp_dim)
        self.down = nn.Linear(mlp_dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.dropout(F.gelu(self.up(x)))))

    def initialise(self, random: torch.Generator) -> None:
        """Xavier-uniform kernels and biases near zero, as google-research/vision_transformer has them."""
        for dense in (self.up, self.down):
            nn.init.xavier_uniform_(dense.weight, generator=random)
            nn.init.normal_(dense.bias, std=1e-6, generator=random)


class MapHead(nn.Module):
    """Multi-head attention pooling ("Scaling Vision Transformers", arXiv 2106.04560): [B, T, D] -> [B, D].

    One learned query attends to all tokens, and an MLP follows in a residual branch, as in google-research/big_vision,
    models/vit.py, `MAPHead`; it has no dropout there, either.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width = variant.width
        self.heads = variant.heads
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, variant.mlp_dim, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q = self.q(self.probe.expand(batch, -1, -1)).view(batch, 1, self.heads, -1).transpose(1, 2)
        k, v = self.kv(x).view(batch, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, width))
        return x + self.mlp(self.norm(x))

    def initialise(self, random: torch.Generator) -> None:
        """As big_vision has it: all kernels and the query Xavier-uniform, the query as a kernel of one row."""
        for kernel in (self.probe[0].T, self.q.weight, *self.kv.weight.chunk(2), self.out.weight):
            nn.init.xavier_uniform_(kernel, generator=random)
        for dense in (self.q, self.kv, self.out):
            nn.init.zeros_(dense.bias)
        self.mlp.initialise(random)
