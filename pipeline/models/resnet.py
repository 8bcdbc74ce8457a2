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

    def forward_macs(self, image_size: int, classes: int) -> int:
        """Multiply-accumulates of one image's forward pass: convolutions, and the head's product.

        Standardising the weights is work per step, not per image, and no product.
        """
        convolutions = sum(conv.parameters * conv.side**2 for conv in self._convolutions(image_size))
        return convolutions + self.hidden_sizes[-1] * classes

    def train_flops(self, image_size: int, classes: int) -> int:
        """Operations to train on one image, counted as a ViT's are (flops.py)."""
        return 6 * self.forward_macs(image_size, classes)

    def parameters(self, classes: int) -> int:
        """How many it has: kernels, a factor and an offset for each normalised channel, and the head's."""
        kernels = sum(conv.parameters for conv in self._convolutions(image_size=64))
        return kernels + 2 * sum(self._normalised()) + (self.hidden_sizes[-1] + 1) * classes

    def _convolutions(self, image_size: int) -> Iterator[Conv]:
        stem = -(-image_size // 2)
        yield Conv(3, self.embedding_size, 7, stem)
        side, inputs = self._pooled(stem), self.embedding_size
        for stage, (depth, width) in enumerate(zip(self.depths, self.hidden_sizes, strict=True)):
            middle = _multiple_of_8(width / 4)
            for block in range(depth):
                before = side
                if stage and not block:
                    side = -(-side // 2)
                if not block:
                    yield Conv(inputs, width, 1, side)  # the shortcut's
                yield Conv(inputs, middle, 1, before if self.stride_in_3x3 else side)
                yield Conv(middle, middle, 3, side)
                yield Conv(middle, width, 1, side)
                inputs = width

    def _pooled(self, side: int) -> int:
        """Side after the max pooling, 3 x 3 with stride 2, of an input that torch's padding has one zero around."""
        padded = side if self.same_padding else side + 2
        return -(-padded // 2) if self.padded_pooling else (padded - 3) // 2 + 1

    def _normalised(self) -> Iterator[int]:
        """Channels of every group norm."""
        inputs = self.embedding_size
        if not self.preactivation:
            yield inputs
        for depth, width in zip(self.depths, self.hidden_sizes, strict=True):
            middle = _multiple_of_8(width / 4)
            for block in range(depth):
                yield from (middle, middle, inputs if self.preactivation else width)
                if not block and not self.preactivation:
                    yield width  # the shortcut's
                inputs = width
        if self.preactivation:
            yield inputs


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
