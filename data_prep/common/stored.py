"""What the work folder holds, read as what it was written as: a disk, or a user, may have changed it since."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.dataset.errors import WorkFailed

Stored = TypeVar("Stored")
MAKE_AGAIN: Final = "delete it and run the same command again"


def read_stored(path: Path, kind: type[Stored], advice: str = MAKE_AGAIN) -> Stored:
    """A JSON file as a `kind`: a dataclass, or lists or dicts of what has a type.

    Raises:
        OSError: it cannot be read.
        WorkFailed: it is something else; `advice` says what to do then.
    """
    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except ValidationError:
        raise WorkFailed(f"{path}: damaged; {advice}") from None


@lru_cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
