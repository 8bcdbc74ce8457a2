"""RUN/STOP: asks a run to save and to end, from any machine that sees its folder. Torch-free.

    a first line `after step N`     not before that step is done
    whatever else it says           why; it goes into the verdict

So `touch RUN/STOP` will do. Rank 0 looks for it every few seconds, and removes it once it has been obeyed.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset.files import atomic_file, open_regular
from pipeline.dataset.names import one_line

_AFTER = re.compile(r"after step (\d{1,18})")
_LONGEST = 1000  # bytes of it that are read


@dataclass(frozen=True)
class StopOrder:
    """What a STOP file says."""

    reason: str = ""
    after_step: int | None = None  # at once where it is None

    @classmethod
    def of(cls, text: str) -> "StopOrder":
        first, _, rest = text.strip().partition("\n")
        after = _AFTER.fullmatch(first.strip())
        reason = " ".join((rest if after else text).split())
        return cls(one_line(reason), int(after[1]) if after else None)

    def __str__(self) -> str:
        after = "" if self.after_step is None else f"after step {self.after_step}\n"
        return f"{after}{self.reason}\n"


@dataclass(frozen=True)
class StopFile:
    path: Path

    def read(self) -> StopOrder | None:
        """None where there is none, or none that can be read."""
        try:
            with open_regular(self.path) as file:
                return StopOrder.of(file.read(_LONGEST).decode(errors="replace"))
        except OSError:
            return None

    def write(self, order: StopOrder) -> None:
        """Raises OSError."""
        with atomic_file(self.path) as file:
            file.write(str(order).encode())

    def obeyed(self, step: int | None) -> None:
        """The run ends after `step` (None: for good): removes the file, unless it asks for a later one."""
        order = self.read()
        if step is not None and order and order.after_step is not None and order.after_step > step:
            return
        with suppress(OSError):  # it would be obeyed once more
            self.path.unlink(missing_ok=True)
