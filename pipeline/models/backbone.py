"""The ResNet below a hybrid's ViT (arXiv 2010.11929, section 4.1). [B, 3, H, W] float -> [B, C, H / s, W / s].

As google-research/vision_transformer has it (vit_jax/models_resnet.py, models_vit.py): with BiT's group norms and
standardised kernels (arXiv 1912.11370), but norms after the convolutions, and a stage's stride in its first 3x3. H and
W are multiples of the stride s.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.resnet import ResNet, Unit

_GROUPS: Final = 32


class StandardisedConv(nn.Conv2d):
    """Of kernels with mean 0 and variance 1 for each output. Padded as TensorFlow does it: the last side has more.

    1e-10 is beside the variance, as in BiT's code (bit_pytorch/models.py). The authors' hybrid has 1e-5 beside the
    deviation: with group norms right behind, features differ by 0.1 % at the start.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2 if stride == 1 else 0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """In one kernel, its statistics in float32, which keeps nothing but the weight for the backward pass."""
        standardised = F.layer_norm(self.weight, self.weight.shape[1:], eps=1e-10)
        return F.conv2d(_padded(x, self.kernel_size[0], self.stride[0]), standardised, None, self.stride, self.padding)


class GroupNorm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(_GROUPS, channels, eps=1e-6)  # as flax, whose default the authors take


class Bottleneck(nn.Module):
    """relu(x + branch(x)), x projected in the first of a stage."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.conv1, self.norm1 = StandardisedConv(unit.inputs, unit.middle, 1), GroupNorm(unit.middle)
        self.conv2, self.norm2 = StandardisedConv(unit.middle, unit.middle, 3, unit.stride), GroupNorm(unit.middle)
        self.conv3, self.norm3 = StandardisedConv(unit.middle, unit.outputs, 1), GroupNorm(unit.outputs)
        shape = (unit.inputs, unit.outputs, 1, unit.stride)
        self.conv_shortcut = StandardisedConv(*shape) if unit.is_first else nn.Identity()
        self.norm_shortcut = GroupNorm(unit.outputs) if unit.is_first else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu(self.norm1(self.conv1(x)))
        branch = self.relu(self.norm2(self.conv2(branch)))
        branch = self.norm3(self.conv3(branch))
        return self.relu(self.norm_shortcut(self.conv_shortcut(x)) + branch)


class Backbone(nn.Module):
    """A ResNet without a head, made by `ResNet.below_vit`."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv = StandardisedConv(3, resnet.embedding_size, 7, stride=2)
        self.norm = GroupNorm(resnet.embedding_size)
        self.relu = nn.ReLU()
        self.stages = nn.ModuleList(nn.Sequential() for _ in resnet.depths)
        for unit in resnet.units(image_size=64):
            self.stages[unit.stage].append(Bottleneck(unit))

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(images)))
        x = F.max_pool2d(_padded(x, 3, 2), 3, 2)  # nothing is below the zeros around it
        for stage in self.stages:
            x = stage(x)
        return x

    def initialise(self, random: torch.Generator) -> None:
        """LeCun-normal kernels; each branch begins as nothing, by the factors of its last norm."""
        for part in self.modules():
            if isinstance(part, StandardisedConv):
                nn.init.trunc_normal_(part.weight, std=part.weight[0].numel() ** -0.5, generator=random)
            elif isinstance(part, Bottleneck):
                nn.init.zeros_(part.norm3.weight)


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """What lacks at an even side, if anything does: of k - s points, the smaller half first."""
    lacking = max(0, kernel - stride) if stride > 1 else 0
    return F.pad(x, 2 * (lacking // 2, lacking - lacking // 2)) if lacking else x
