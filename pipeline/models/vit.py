"""The Vision Transformer of arXiv 2010.11929, with stochastic depth. [B, 3, H, W] float -> [B, classes] logits.

Pre-norm blocks; a class token, average or attention pooling; learned, fixed or no position embeddings. Dropout sits
where the paper has it (appendix B.1): after every dense layer except the qkv projections, and after adding the position
embeddings. What later papers have added is there where it is asked for: LayerScale, normalised queries and keys,
register tokens, and dropout of whole patches. A hybrid's patches are the points of a ResNet's features.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pipeline.models.backbone import Backbone
from pipeline.models.heads import MapHead, Mlp
from pipeline.models.posemb import fixed_positions, fixed_positions_on, resize_positions
from pipeline.models.variants import ViTConfig, kept_patches

LAYER_NORM_EPS: Final = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to q, k and v. [B, T, D] -> [B, T, D].

    With `qk_norm`, each head's queries and keys go through layer norms without bias first ("Scaling Vision Transformers
    to 22 Billion Parameters", arXiv 2302.05442), so that no softmax gets too sharp.
    """

    def __init__(self, width: int, heads: int, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads, eps=LAYER_NORM_EPS, bias=False) if qk_norm else None
        self.k_norm = nn.LayerNorm(width // heads, eps=LAYER_NORM_EPS, bias=False) if qk_norm else None
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, width / heads]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.dropout(self.out(attended.transpose(1, 2).reshape(batch, tokens, width)))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch for a whole sample, rescaling what is kept.

    The rate is a tensor, so that one compiled block serves the rates of all depths.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("rate", torch.tensor(rate), persistent=False)

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * (keep / (1.0 - self.rate)).to(branch.dtype)


class PatchDropout(nn.Module):
    """Leaves a share of the patches of each sample out, others of every one (arXiv 2212.00794). Training only.

    [B, prefix + n, D] -> [B, prefix + kept, D]; what comes before the patches stays.
    """

    def __init__(self, prefix: int, rate: float) -> None:
        super().__init__()
        self.prefix, self.rate = prefix, rate

    def forward(self, x: Tensor) -> Tensor:
        patches = x.shape[1] - self.prefix
        kept = kept_patches(patches, self.rate)
        if not self.training or kept == patches:
            return x
        chosen = torch.rand(len(x), patches, device=x.device).topk(kept, dim=1).indices
        chosen = chosen[:, :, None].expand(-1, -1, x.shape[2])
        return torch.cat([x[:, : self.prefix], x[:, self.prefix :].gather(1, chosen)], dim=1)


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch, small at first (CaiT, arXiv 2103.17239)."""

    def __init__(self, width: int, first: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), first))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.scale


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        width, first = config.variant.width, config.layer_scale
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = Attention(width, config.variant.heads, config.dropout, config.qk_norm)
        self.scale1 = nn.Identity() if first is None else LayerScale(width, first)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, config.variant.mlp_dim, config.dropout)
        self.scale2 = nn.Identity() if first is None else LayerScale(width, first)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1(self.attention(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class ViT(nn.Module):
    """A ViT. Parameter names are the checkpoint's; `huggingface.py` maps them to transformers'."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        v, width = config.variant, config.variant.width
        self.config = config
        channels, side = v.embedded
        self.backbone = nn.Identity() if v.resnet is None else Backbone(v.resnet)
        self.patch_embed = nn.Conv2d(channels, width, kernel_size=side, stride=side)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.class_tokens else None
        self._add_positions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.patch_dropout = PatchDropout(config.class_tokens, config.patch_dropout)
        registers = config.registers
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        rates = [config.drop_path * i / max(1, v.depth - 1) for i in range(v.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.recomputed_blocks = 0  # the first so many keep nothing but their input for the backward pass
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.pool = MapHead(v) if config.pooling == "map" else None
        self.pre_logits = None
        if config.representation_size:
            self.pre_logits = nn.Linear(width, config.representation_size)
        self.head = nn.Linear(config.representation_size or width, config.classes)

    def _add_positions(self, config: ViTConfig) -> None:
        """`pos_embed`, [1, class token and patches, D]: a parameter; if fixed, a buffer in no state dict; or None."""
        width, before = config.variant.width, config.class_tokens
        if config.pos_embed == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, before + config.patches, width))
            return
        fixed = None
        if config.pos_embed == "sincos2d":
            fixed = fixed_positions(config.image_size // config.variant.patch, width, before)
        self.register_buffer("pos_embed", fixed, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, H], normalised, of the parameters' dtype -> [B, classes] logits.

        H may be another multiple of the patch than `image_size`: the positions are resized, and learn through that.
        """
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """[B, D]: what the head sees."""
        x = self.patch_embed(self.backbone(images)).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if (positions := self._positions(x.shape[1])) is not None:
            x = x + positions.to(x.dtype)  # DeepSpeed makes parameters bf16, but not buffers
        x = self.patch_dropout(self.dropout(x))
        patches = x.shape[1]  # and the class token
        if self.register_tokens is not None:
            x = torch.cat([x, self.register_tokens.expand(len(x), -1, -1)], dim=1)
        for number, block in enumerate(self.blocks):
            recomputes = number < self.recomputed_blocks and self.training
            x = checkpoint(block, x, use_reentrant=False) if recomputes else block(x)
        x = self._pooled(self.norm(x)[:, :patches])  # registers have served (arXiv 2309.16588)
        return x if self.pre_logits is None else torch.tanh(self.pre_logits(x))

    def _positions(self, tokens: int) -> Tensor | None:
        """[1, class token and patches, D] for so many of them: `pos_embed`, or what it is on another grid."""
        config, before = self.config, self.config.class_tokens
        if self.pos_embed is None or tokens == before + config.patches:
            return self.pos_embed
        if config.pos_embed == "learned":
            return resize_positions(self.pos_embed, tokens, before)
        side = math.isqrt(tokens - before)
        return fixed_positions_on(self.pos_embed.device, side, config.variant.width, before)

    def _pooled(self, x: Tensor) -> Tensor:
        """[B, class token and patches, D] -> [B, D]."""
        if self.pool is not None:
            return self.pool(x)
        return x[:, 0] if self.cls_token is not None else x.mean(dim=1)

    @torch.no_grad()
    def initialise(self, seed: int) -> "ViT":
        """The authors' initialisation (google-research/vision_transformer, models/vit.py), from `seed` alone.

        Xavier-uniform kernels (q, k and v each on their own), biases near zero in the MLP, LeCun-normal patch
        embedding, N(0, 0.02) positions; the class token and the head start at zero, the head's bias at `head_bias`.
        Registers begin near zero, as in DINOv2 (dinov2/models/vision_transformer.py).
        """
        random = torch.Generator().manual_seed(seed)
        if isinstance(self.backbone, Backbone):
            self.backbone.initialise(random)
        nn.init.trunc_normal_(self.patch_embed.weight, std=self.patch_embed.weight[0].numel() ** -0.5, generator=random)
        nn.init.zeros_(self.patch_embed.bias)
        if isinstance(self.pos_embed, nn.Parameter):
            nn.init.normal_(self.pos_embed, std=0.02, generator=random)
        for block in self.blocks:
            for kernel in (*block.attention.qkv.weight.chunk(3), block.attention.out.weight):
                nn.init.xavier_uniform_(kernel, generator=random)
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.out.bias)
            block.mlp.initialise(random)
        if self.pre_logits is not None:
            nn.init.xavier_uniform_(self.pre_logits.weight, generator=random)
            nn.init.zeros_(self.pre_logits.bias)
        if self.pool is not None:
            self.pool.initialise(random)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6, generator=random)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, self.config.head_bias)
        return self
