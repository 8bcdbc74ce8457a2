"""One call of `vitstream shard`: what is asked for, and which part of it is to be done now."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import xxhash

from data_prep.options import Options
from data_prep.sources.options import SourceOptions
from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import MAX_PIXELS
from pipeline.dataset.quantities import parse_bytes, parse_limit

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


def from_command_line(given: Mapping[str, Any]) -> Request:
    """The values of pipeline/cli/shard.py, checked and in their types. Raises UsageError."""
    if given["as_is"] and given["quality"] is not None:
        raise UsageError("--as-is keeps the bytes and --quality changes them: choose one")
    keep, classes = given["keep"], given["classes"]
    taken = ("size", "as_is", "val_fraction", "seed", "max_seconds", "where", "per_class", "limit")
    options = Options(
        **{name: given[name] for name in taken},
        quality=90 if given["quality"] is None else given["quality"],
        check=_one_of("--check", given["check"], ("decode", "header")),
        keep_small=not given["reencode"] and given["quality"] is None,
        shard_size=parse_bytes(given["shard_size"], "--shard-size"),
        max_pixels=MAX_PIXELS if given["max_pixels"] is None else given["max_pixels"],
        keep=None if keep is None else hash_of("--keep", keep),
        classes=None if classes is None else hash_of("--classes", classes),
        subsets=_words(given["subsets"]),
    )
    return Request(
        sources=tuple(given["sources"]),
        out=given["out"],
        options=options,
        source_options=SourceOptions(labels=_words(given["labels"]), image=given["image"], key=given["key"]),
        keep=keep,
        classes=classes,
        max_rejects=_limit(given["max_rejects"]),
        slice=None if given["task"] is None else Slice.parse(given["task"]),
        stop_after=given["stop_after"] and _one_of("--stop-after", given["stop_after"], ("plan", "stream")),
    )


def hash_of(option: str, path: Path) -> str:
    """xxh3-128 of a file that an option names. Raises UsageError where it cannot be read, or not twice."""
    hasher = xxhash.xxh3_128()
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{option} {path}: no regular file; write the list into one")
        with path.open("rb") as file:
            while block := file.read(2**20):
                hasher.update(block)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror})") from None
    return hasher.hexdigest()


def _limit(text: str) -> str:
    parse_limit(text, 1, "--max-rejects")  # now, not after a listing that may take hours
    return text


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise UsageError(f"{option} {value!r}: expected {' or '.join(allowed)}")
    return value
