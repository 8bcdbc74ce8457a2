"""Quantities as users write them: `512MB`, `1%`."""

import re

from pipeline.dataset.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)


def parse_bytes(text: str, option: str) -> int:
    """`512MB` (10**6), `512MiB` (2**20), `1.5G`, `4096`. Raises UsageError naming `option`."""
    found = _SIZE.fullmatch(text.strip())
    factor = (_UNITS | _BINARY).get(found[2].upper()) if found else None
    if found is None or factor is None or not 1 <= float(found[1]) * factor < 2**63:
        raise UsageError(f"{option} {text!r}: not a size; write it like 512MB, 64MiB or 1.5GB")
    return round(float(found[1]) * factor)


def parse_limit(text: str, total: int, option: str) -> int:
    """How many of `total` a limit allows: a plain integer counts, `0.01` and `1%` are shares.

    Raises:
        UsageError: neither, or a share outside 0..100 %.
    """
    text = text.strip()
    if re.fullmatch(r"\d+", text):
        return int(min(float(text), total))  # as a float, any number of digits is one
    share = re.fullmatch(r"(\d*\.?\d+)(%?)", text)
    value = float(share[1]) / (100 if share[2] else 1) if share else -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{option} {text!r}: neither a number of images nor a share; write 100, 0.01 or 1%")
    return int(total * value)


def human_bytes(count: int) -> str:
    """`1234567` -> `1.2 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
