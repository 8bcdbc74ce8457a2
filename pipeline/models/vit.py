"""The Vision Transformer of arXiv 2010.11929, with stochastic depth. [B, 3, H, W] float -> [B, classes] logits.

Pre-norm blocks, learned position embeddings, a class token or average pooling. Dropout sits where the paper has
it (appendix B.1): after every dense layer except the qkv projections, and after adding the position embeddings.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.variants import Variant


@dataclass(frozen=True)
class ViTConfig:
    variant: Variant
    image_size: int
    classes: int
    pooling: str = "cls"  # or "gap"
    representation_size: int | None = None
    head_bias: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to q, k and v."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, width / heads]
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.dropout(self.out(attended.transpose(1, 2).reshape(batch, tokens, width)))


class Mlp(nn.Module):
    def __init__(self, width: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, mlp_dim)
        self.down = nn.Linear(mlp_dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.dropout(F.gelu(self.up(x)))))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch for a whole sample, rescaling what is kept."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * (keep / (1.0 - self.rate)).to(branch.dtype)


class Block(nn.Module):
    def __init__(self, variant: Variant, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(variant.width, eps=1e-6)
        self.attention = Attention(variant.width, variant.heads, dropout)
        self.norm2 = nn.LayerNorm(variant.width, eps=1e-6)
        self.mlp = Mlp(variant.width, variant.mlp_dim, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """A plain ViT. Parameter names are the checkpoint's; `huggingface.py` maps them to transformers'."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        v, width = config.variant, config.variant.width
        self.config = config
        self.patch_embed = nn.Conv2d(3, width, kernel_size=v.patch, stride=v.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.pooling == "cls" else None
        tokens = (config.image_size // v.patch) ** 2 + (self.cls_token is not None)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.dropout = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(1, v.depth - 1) for i in range(v.depth)]
        self.blocks = nn.ModuleList(Block(v, config.dropout, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pre_logits = None
        if config.representation_size:
            self.pre_logits = nn.Linear(width, config.representation_size)
        self.head = nn.Linear(config.representation_size or width, config.classes)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W], normalised, of the parameters' dtype -> [B, classes] logits."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """[B, D]: what the head sees."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.dropout(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        x = x[:, 0] if self.cls_token is not None else x.mean(dim=1)
        return x if self.pre_logits is None else torch.tanh(self.pre_logits(x))

    @torch.no_grad()
    def initialise(self, seed: int) -> "ViT":
        """The authors' initialisation (google-research/vision_transformer, models/vit.py), from `seed` alone.

        Xavier-uniform kernels (q, k and v each on their own), biases near zero in the MLP, LeCun-normal patch
        embedding, N(0, 0.02) positions; the class token and the head start at zero, the head's bias at `head_bias`.
        """
        random = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.patch_embed.weight, std=self.patch_embed.weight[0].numel() ** -0.5, generator=random)
        nn.init.zeros_(self.patch_embed.bias)
        nn.init.normal_(self.pos_embed, std=0.02, generator=random)
        for block in self.blocks:
            for kernel in (*block.attention.qkv.weight.chunk(3), block.attention.out.weight):
                nn.init.xavier_uniform_(kernel, generator=random)
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.out.bias)
            for dense in (block.mlp.up, block.mlp.down):
                nn.init.xavier_uniform_(dense.weight, generator=random)
                nn.init.normal_(dense.bias, std=1e-6, generator=random)
        if self.pre_logits is not None:
            nn.init.xavier_uniform_(self.pre_logits.weight, generator=random)
            nn.init.zeros_(self.pre_logits.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, self.config.head_bias)
        return self
