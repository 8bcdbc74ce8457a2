r"""File names as text: JSON and Parquet hold UTF-8, file systems hold bytes.

A backslash, a control character, a line separator and every byte that is no valid UTF-8 is written as `\xNN`, one
per byte. Everything else stays as it is, so nearly every path is its own escape, a path is always one line, and
`unescape` gives the very bytes back.
"""

import re

_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SPECIAL = re.compile(rf"\\|{_BREAKING.pattern}")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def to_bytes(path: str) -> bytes:
    """The file system's bytes of a path that was decoded with surrogateescape."""
    return path.encode("utf-8", "surrogateescape")


def from_bytes(path: bytes) -> str:
    """Inverse of `to_bytes`; the same on every machine, whatever its locale."""
    return path.decode("utf-8", "surrogateescape")


def _hex(found: re.Match[str]) -> str:
    errors = "surrogateescape" if "\udc80" <= found[0] <= "\udcff" else "surrogatepass"
    return "".join(rf"\x{byte:02x}" for byte in found[0].encode("utf-8", errors))


def escape(path: str) -> str:
    """A path as one line of valid UTF-8."""
    return _SPECIAL.sub(_hex, path)


def one_line(text: str) -> str:
    """A message, whatever names are in it, as one line: `escape`, but a backslash may be one of the message's own."""
    return _BREAKING.sub(_hex, text)


def unescape(text: str) -> str:
    """The path that `escape` was given."""
    return from_bytes(_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.encode()))
