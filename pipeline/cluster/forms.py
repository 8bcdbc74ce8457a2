"""The forms of what SLURM may be asked for. Pure: what passes here is one word that no option can hide in."""

import re
from typing import Final

_FORMS: Final = {
    "time": (r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", "minutes, hours:minutes:seconds or days-hours, as in 4:00:00"),
    "mem": (r"\d+[KMGT]?", "a number with K, M, G or T, as in 8G"),
    "partition": (r"\w[\w.+-]*(,\w[\w.+-]*)*", "a partition's name, as sinfo shows it"),
    "account": (r"\w[\w.@+-]*", "an account's name"),
    "qos": (r"\w[\w.@+-]*", "a quality of service, as sacctmgr shows it"),
    "constraint": (r"[\w(\[][\w.+&|*,:()\[\]-]*", "features of nodes, as in a100 or a100&ib"),
}


def complaint(name: str, value: str) -> str | None:
    """What is wrong with the value of an option; None where it is of SLURM's form."""
    form, expected = _FORMS[name]
    return None if re.fullmatch(form, value, re.ASCII) else f"{value!r}: expected {expected}"


def checked(name: str, value: str | None) -> str | None:
    """The value itself. Raises ValueError where it is not of SLURM's form."""
    if value is not None and (wrong := complaint(name, value)):
        raise ValueError(wrong)
    return value


def seconds_of(time: str) -> int:
    """Of a time limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(each) for each in rest.split(":")]
    if dash or len(numbers) == 3:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    minutes, seconds = [*numbers, 0][:2]
    return minutes * 60 + seconds
