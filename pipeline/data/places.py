"""The values of `data.train` and `data.val`: where datasets lie, and in which shares they are mixed."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from pipeline.dataset.location import Location

MAX_DATASETS = 256  # that are trained on together


def _place(value: Any) -> Path | str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"takes a DATASET folder or a URL, not {value!r}")
    return value if isinstance(value, str) and Location(value).is_remote else Path(value)


def _places(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _place(value)
    weighted = sum(isinstance(each, dict | Weighted) for each in value)
    if weighted not in (0, len(value)):
        raise ValueError("mixes places and {path, weight}: give each dataset a weight, or none")
    if not 0 < len(value) <= MAX_DATASETS:
        raise ValueError(f"a list of {len(value)}; takes 1 to {MAX_DATASETS} datasets")
    return tuple(_weighted(each) if weighted else _place(each) for each in value)


def _weighted(value: Any) -> "Weighted":
    """Raises ValueError, of one line: pydantic would take its own exception for a page of text."""
    try:
        return Weighted.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] in ("missing", "extra_forbidden"):
            wrong = "misses" if first["type"] == "missing" else "does not take"
            raise ValueError(f"a dataset of a mixture is {{path, weight}}; one {wrong} {key}") from None
        raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_json(each) for each in value]
    return value.model_dump(mode="json") if isinstance(value, Weighted) else str(value)


Place = Annotated[Path | str, PlainValidator(_place)]  # a DATASET folder, or a URL, which as a path would lose a slash


class Weighted(BaseModel):
    """A dataset of a mixture: weight / (sum of all weights) of the samples read are its."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    path: Place
    weight: Annotated[float, Field(gt=0)]


# A place; or a list of places, which are one dataset together; or a list of {path, weight}.
Places = Annotated[
    Path | str | tuple[Path | str | Weighted, ...], PlainValidator(_places), PlainSerializer(_to_json, when_used="json")
]
