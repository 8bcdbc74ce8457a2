"""The ViT paper's ResNets as numbers: BiT's (arXiv 1912.11370), as transformers builds them. Torch-free.

What a stage's stride is in matters for arithmetic: in the 3x3 convolution of its first block, as in BiT's published
code and transformers' (the default here), or in the 1x1 before it, which then has a quarter of the work. The ViT
paper's table 6 is met by the second: see docs/recipes.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

DEPTHS: Final = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


@dataclass(frozen=True)
class Conv:
    """One convolution without bias, at an output of `side` x `side`."""

    inputs: int
    outputs: int
    kernel: int
    side: int

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.kernel**2


@dataclass(frozen=True)
class Unit:
    """A bottleneck: 1x1, 3x3, 1x1. The first of a stage has a convolution in its shortcut, too."""

    stage: int
    number: int  # in its stage
    inputs: int  # channels
    middle: int
    outputs: int
    before: int  # pixels a side of what comes in
    side: int  # and of what goes out

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def stride(self) -> int:
        return 2 if self.stage and self.is_first else 1


@dataclass(frozen=True)
class ResNet:
    """A bottleneck ResNet with group norms and standardised weights."""

    depths: tuple[int, ...] = DEPTHS[50]
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    embedding_size: int = 64
    preactivation: bool = True  # else norms come after the convolutions
    same_padding: bool = False  # TensorFlow's, else torch's
    padded_pooling: bool = False  # the max pooling after the stem pads what it lacks
    stride_in_3x3: bool = True

    @classmethod
    def of_paper(cls, layers: int, factor: int, stride_in_3x3: bool = True) -> "ResNet":
        """R50x1, ..., R200x3: `layers` of 50, 101, 152 and 200, every width times `factor`."""
        sizes = tuple(factor * size for size in (256, 512, 1024, 2048))
        return cls(DEPTHS[layers], sizes, 64 * factor, stride_in_3x3=stride_in_3x3)

    @classmethod
    def below_vit(cls, depths: tuple[int, ...], width: int = 64) -> "ResNet":
        """A hybrid's (backbone.py): its norms come after the convolutions, and it is padded as TensorFlow does it."""
        sizes = tuple(4 * width * 2**stage for stage in range(len(depths)))
        return cls(depths, sizes, width, preactivation=False, same_padding=True, padded_pooling=True)

    def forward_macs(self, image_size: int, classes: int = 0) -> int:
        """Multiply-accumulates of one image's forward pass: convolutions, and the head's product.

        Standardising the weights is work per step, not per image, and no product.
        """
        convolutions = sum(conv.parameters * conv.side**2 for conv in self.convolutions(image_size))
        return convolutions + self.hidden_sizes[-1] * classes

    def train_flops(self, image_size: int, classes: int) -> int:
        """Operations to train on one image, counted as a ViT's are (flops.py)."""
        return 6 * self.forward_macs(image_size, classes)

    def parameters(self, classes: int = 0) -> int:
        """How many it has: kernels, a factor and an offset for each normalised channel, and the head's."""
        kernels = sum(conv.parameters for conv in self.convolutions(image_size=64))
        return kernels + 2 * sum(self._normalised()) + (self.hidden_sizes[-1] + 1) * classes

    def units(self, image_size: int) -> Iterator[Unit]:
        """All bottlenecks in their order."""
        side, inputs = self._pooled(-(-image_size // 2)), self.embedding_size
        for stage, (depth, width) in enumerate(zip(self.depths, self.hidden_sizes, strict=True)):
            for number in range(depth):
                after = -(-side // 2) if stage and not number else side
                yield Unit(stage, number, inputs, _multiple_of_8(width / 4), width, side, after)
                side, inputs = after, width

    def convolutions(self, image_size: int) -> Iterator[Conv]:
        """All of them."""
        yield Conv(3, self.embedding_size, 7, -(-image_size // 2))
        for unit in self.units(image_size):
            if unit.is_first:
                yield Conv(unit.inputs, unit.outputs, 1, unit.side)  # the shortcut's
            yield Conv(unit.inputs, unit.middle, 1, unit.before if self.stride_in_3x3 else unit.side)
            yield Conv(unit.middle, unit.middle, 3, unit.side)
            yield Conv(unit.middle, unit.outputs, 1, unit.side)

    def _pooled(self, side: int) -> int:
        """Side after the max pooling, 3 x 3 with stride 2, of an input that torch's padding has one zero around."""
        padded = side if self.same_padding else side + 2
        return -(-padded // 2) if self.padded_pooling else (padded - 3) // 2 + 1

    def _normalised(self) -> Iterator[int]:
        """Channels of every group norm."""
        if not self.preactivation:
            yield self.embedding_size
        for unit in self.units(image_size=64):
            yield from (unit.middle, unit.middle, unit.inputs if self.preactivation else unit.outputs)
            if unit.is_first and not self.preactivation:
                yield unit.outputs  # the shortcut's
        if self.preactivation:
            yield self.hidden_sizes[-1]


def resnet_of(config: dict[str, Any]) -> ResNet | None:
    """What a BiT's config.json says, with transformers' defaults; None of what is not counted here."""
    if config.get("model_type") != "bit" or config.get("output_stride", 32) < 32:  # which dilates, in place of strides
        return None
    padding = (config.get("global_padding") or "none").lower()
    if padding == "valid" or config.get("layer_type", "preactivation") not in ("preactivation", "bottleneck"):
        return None
    plain = ResNet()
    return ResNet(
        depths=tuple(config.get("depths", plain.depths)),
        hidden_sizes=tuple(map(_multiple_of_8, config.get("hidden_sizes", plain.hidden_sizes))),
        embedding_size=config.get("embedding_size", plain.embedding_size),
        preactivation=config.get("layer_type", "preactivation") == "preactivation",
        same_padding=padding == "same",
        padded_pooling=config.get("embedding_dynamic_padding", False),
    )


def _multiple_of_8(channels: float) -> int:
    """The nearest one that is not below 90 %, as transformers' `make_div` has it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
