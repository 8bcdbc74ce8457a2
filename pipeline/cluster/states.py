"""States of SLURM's jobs, as all its commands and versions write them. Pure."""

import re
from dataclasses import dataclass
from typing import Final, Literal

_BASES: Final = (
    *("PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"),
    *("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"),
)
# Without a base state beside them, as squeue shows them.
_WAITING: Final = ("PENDING", "REQUEUED", "REQUEUE", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_ENDED: Final = (*_BASES[3:], "COMPLETING", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL")
_SHORT: Final = {
    **{"PD": "PENDING", "R": "RUNNING", "S": "SUSPENDED", "CD": "COMPLETED", "CA": "CANCELLED", "F": "FAILED"},
    **{"TO": "TIMEOUT", "NF": "NODE_FAIL", "PR": "PREEMPTED", "BF": "BOOT_FAIL", "DL": "DEADLINE"},
    **{"OOM": "OUT_OF_MEMORY", "CG": "COMPLETING", "CF": "CONFIGURING", "RQ": "REQUEUED", "RV": "REVOKED"},
}


@dataclass(frozen=True)
class State:
    """A base state, or what stands alone in its place; and what is said beside it."""

    base: str
    flags: frozenset[str] = frozenset()

    @property
    def kind(self) -> Literal["waiting", "running", "ended"]:
        """What a state that nobody knows counts as: running. Who takes it for the end starts a second one beside it."""
        if self.base in _WAITING or (self.flags & set(_WAITING) and self.base != "RUNNING"):
            return "waiting"
        return "ended" if self.base in _ENDED or "REVOKED" in self.flags else "running"

    def __str__(self) -> str:
        return "+".join((self.base, *sorted(self.flags)))


def parse_state(text: str) -> State:
    """`RUNNING`, `COMPLETING,CANCELLED`, `CANCELLED by 0`, `CANCELLED+`, `["RUNNING"]`, `CG`."""
    words = [_SHORT.get(word, word) for word in re.findall(r"[A-Z][A-Z_]*", re.sub(r" BY .*", "", text.upper()))]
    if not words:
        return State("UNKNOWN")
    base = next((word for word in words if word in _BASES), words[0])
    return State(base, frozenset(words) - {base})
