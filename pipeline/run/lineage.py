"""What every checkpoint hands on about its run: the code that trained it, and the losses of the last steps. Torch-free.

metrics.jsonl and env.json know more, but a run's checkpoints may be moved, or gone on from, without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

KEPT = 100  # steps
_FEWEST = 20  # of which a spread means something
_FAR = 5.0  # standard deviations
_FLOOR = 1e-3  # of the mean: the least spread that is believed


@dataclass
class Lineage:
    code: dict[str, str]  # that trains now: version and, of a checkout, git_commit; rank 0's
    code_before: dict[str, str] = field(default_factory=dict)  # of the checkpoint that it goes on from, if known
    losses: list[float] = field(default_factory=list)  # the newest last
    just_resumed: bool = False

    @classmethod
    def after(cls, code: dict[str, str], code_before: dict[str, str], losses: Sequence[float]) -> "Lineage":
        """Of a run that goes on from a checkpoint."""
        return cls(code, dict(code_before), list(losses), just_resumed=True)

    @property
    def changed(self) -> list[str]:
        """A line where the code is another than before."""
        if not self.code_before or self.code_before == self.code:
            return []
        return [f"code: {_shown(self.code_before)} -> {_shown(self.code)}"]

    def facts(self) -> dict[str, Any]:
        """For the next checkpoint's manifest."""
        return {"code": self.code, "losses": list(self.losses)}

    def add(self, losses: Sequence[float]) -> str | None:
        """Takes the losses of further steps. Returns a line where the first after a resume are far from those before.

        Their mean is compared with the spread of single steps, so that what is merely noisy is not called a jump.
        """
        said = self._jump(losses) if self.just_resumed and losses else None
        self.just_resumed = False
        self.losses = [*self.losses, *losses][-KEPT:]
        return said

    def _jump(self, losses: Sequence[float]) -> str | None:
        if len(self.losses) < _FEWEST:
            return None
        mean, now = fmean(self.losses), fmean(losses)
        spread = max(stdev(self.losses), _FLOOR * abs(mean))
        if abs(now - mean) <= _FAR * spread:
            return None
        first = "the first step" if len(losses) == 1 else f"the first {len(losses):,} steps"
        return (
            f"the loss jumped: {now:.4f} in {first} from here, {mean:.4f} +- {spread:.4f} in the "
            f"{len(self.losses):,} before; what has changed: data, code, configuration?"
        )


def _shown(code: dict[str, str]) -> str:
    commit = f" ({code['git_commit'][:12]})" if "git_commit" in code else ""
    return f"{code.get('version', 'unknown')}{commit}"
