"""Lists of hosts as SLURM abbreviates them: n[1-3,7],login-[01-12]-ib0. Pure, for where there is no scontrol."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Final

_MOST: Final = 65_536  # hosts of a list: more is a mistake, or an attack on our memory


def is_host_list(text: str) -> bool:
    """Whether these are names of hosts only, abbreviated or not."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._,\[\]-]*", text, re.ASCII) is not None


def expand(text: str) -> list[str]:
    """All hosts, in the list's order; as `scontrol show hostnames` does. Raises ValueError for what is no list."""
    hosts: list[str] = []
    for part in _parts(text):
        pieces = re.split(r"(\[[^\[\]]*\])", part)
        if any("[" in piece or "]" in piece for piece in pieces[::2]):
            raise ValueError(f"{text!r}: brackets that do not match")
        choices = [list(_numbers(p[1:-1])) if number % 2 else [p] for number, p in enumerate(pieces)]
        if len(hosts) + _count(choices) > _MOST:
            raise ValueError(f"more than {_MOST:,} hosts")
        hosts += map("".join, product(*choices))
    return hosts


def _parts(text: str) -> Iterator[str]:
    """Split at the commas outside of brackets."""
    if not is_host_list(text):
        raise ValueError(f"{text!r}: no list of hosts")
    for part in re.split(r",(?![^\[\]]*\])", text):
        if not is_host_list(part):
            raise ValueError(f"{text!r}: {part!r} is no name")
        yield part


def _numbers(text: str) -> Iterator[str]:
    """1-3,07 -> 1 2 3 07; a range keeps the width of its first number."""
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part, re.ASCII)
        if not found:
            raise ValueError(f"{part!r}: no number, or range of numbers")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 0 <= last - first < _MOST:
            raise ValueError(f"{part!r}: no range, or a very long one")
        yield from (f"{number:0{len(found[1])}d}" for number in range(first, last + 1))


def _count(choices: list[list[str]]) -> int:
    count = 1
    for each in choices:
        count *= len(each)
    return count
