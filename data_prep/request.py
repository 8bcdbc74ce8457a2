"""One call of `vitstream shard`: what is asked for, and which part of it is to be done now."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_prep.options import Options
from data_prep.sources.options import SourceOptions
from pipeline.dataset.errors import UsageError

Task = TypeVar("Task")


@dataclass(frozen=True)
class Slice:
    """Part `number` of `count` of the work: every count-th piece."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """`3/16`. Counted modulo n, so that 0..n-1 and 1..n both cover everything. Raises UsageError."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not found or not int(found[1]) <= int(found[2]) or int(found[2]) == 0:
            raise UsageError(f"--task {text!r}: write i/n, as in 3/16, with i from 0 to n-1 or from 1 to n")
        return cls(int(found[1]) % int(found[2]), int(found[2]))

    def of(self, tasks: list[Task]) -> list[Task]:
        """Its part of them."""
        return tasks[self.number :: self.count]


@dataclass(frozen=True)
class Request:
    """The command line of `vitstream shard`."""

    sources: tuple[str, ...]
    out: Path
    options: Options
    source_options: SourceOptions = field(default_factory=SourceOptions)
    keep: Path | None = None  # a list of keys
    classes: Path | None = None  # a list of class names
    max_rejects: str = "1%"
    slice: Slice | None = None  # None: all of it, and the end
    stop_after: Literal["plan", "stream"] | None = None

    def asked(self) -> dict[str, Any]:
        """What decides the dataset's bytes, besides the listing."""
        values = asdict(self.options)
        if self.options.as_is:
            values["quality"] = None
        return json.loads(json.dumps(values | asdict(self.source_options)))  # as a manifest gives it back
