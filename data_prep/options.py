"""What a user may ask of `vitstream shard` that decides the bytes of the dataset."""

from dataclasses import dataclass
from typing import Literal

from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import MAX_PIXELS


@dataclass(frozen=True)
class Options:
    """What decides a dataset's bytes, besides the listing."""

    size: int | None = None  # of the shorter side, in pixels; None keeps it
    quality: int = 90
    as_is: bool = False
    check: Literal["decode", "header"] = "decode"  # of --as-is
    keep_small: bool = True  # a JPEG that needs no change keeps its bytes
    val_fraction: float = 0.0
    seed: int = 0
    shard_size: int = 512 * 10**6  # bytes, a target
    max_pixels: int = MAX_PIXELS
    max_seconds: int = 60  # for one image
    where: str | None = None  # SQL
    per_class: int | None = None  # images of a class at most
    limit: int | None = None  # images at most
    keep: str | None = None  # hash of the keep list
    classes: str | None = None  # hash of the class list
    subsets: tuple[str, ...] = ()  # as the user wrote them

    def check_values(self) -> None:
        """Raises UsageError where a value is out of range or two contradict each other."""
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: expected at least 1 pixel")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: expected 1 to 100")
        if self.as_is and self.size is not None:
            raise UsageError("--as-is keeps the bytes and --size changes them: choose one")
        if self.check == "header" and not self.as_is:
            raise UsageError("--check header is for --as-is; what is encoded anew is decoded: leave it out")
        if not 0 <= self.val_fraction < 1:
            raise UsageError(f"--val-fraction {self.val_fraction}: expected at least 0 and less than 1")
        for name in ("max_pixels", "max_seconds", "per_class", "limit"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**53:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected 1 to {2**53 - 1}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed}: expected 0 to {2**63 - 1}")
        if self.where is not None and not self.where.strip():
            raise UsageError("--where '': empty; write a condition, or leave it out")
