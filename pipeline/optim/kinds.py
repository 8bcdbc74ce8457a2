"""What each optimizer keeps of a weight, beside the weight itself. Torch-free."""

from typing import Final

ADAM: Final = ("exp_avg", "exp_avg_sq")
MOMENTS_OF: Final[dict[str, tuple[str, ...]]] = {"adamw": ADAM, "sgd": ("momentum_buffer",)}  # as torch names them
