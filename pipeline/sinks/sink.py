"""What a sink is, and what of a line of metrics.jsonl it is given. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

_NOT_SHOWN: Final = ("step", "eval", "time", "consumed", "attempt", "world_size")

Place = tuple[int, int]  # (step, 1 for an evaluation after it, else 0): in this order, lines are given
BEGIN: Final[Place] = (-1, 1)  # before all


class Sink(Protocol):
    """Anything it raises ends it, and nothing else."""

    name: str

    def begin(self, kept: Mapping[str, Any], first_step: int) -> Place:
        """Opens it for a run that goes on after `first_step` steps. Returns the place after which it needs all lines.

        `kept` is what `keep` told last, perhaps in an earlier attempt; empty at first.
        """
        ...

    def write(self, place: Place, time: float | None, values: dict[str, float]) -> None: ...

    def flush(self) -> None: ...

    def keep(self) -> dict[str, Any]:
        """What the next attempt has to know, as JSON."""
        ...

    def close(self) -> None: ...


def place_of(line: Mapping[str, Any]) -> Place:
    return line["step"], int("eval" in line)


def values_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line, as train/NAME or, of an evaluation, EVAL/NAME."""
    group = line.get("eval", "train")
    return {f"{group}/{name}": value for name, value in _numbers(line) if name not in _NOT_SHOWN}


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, Mapping):  # hosts, datasets
            yield from ((f"{name}/{each}", number) for each, number in _numbers(value))
        elif isinstance(value, str) and value in ("nan", "inf", "-inf"):  # as JSON has them
            yield name, float(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
