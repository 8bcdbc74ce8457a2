"""RUN.yaml as a tree of plain values, `extends` resolved, `--set` applied; and what its sections share. Torch-free."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.dataset.errors import UsageError

Positive = Annotated[int, Field(gt=0)]
PRESETS = Path(__file__).parent / "presets"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_tree(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The tree of a file, over that which it extends, with overrides ("a.b=c", the value is YAML).

    Raises:
        UsageError: one line that names the file or the override.
    """
    tree = _read_tree(path, seen=())
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"--set {override}: takes KEY=VALUE, for example --set optimizer.lr=1e-3")
        branch: Any = {}
        try:
            branch = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UsageError(f"--set {override}: the value is not valid YAML") from None
        for part in reversed(key.split(".")):
            branch = {part: branch}
        tree = merge(tree, branch)
    return tree


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    real = Path(os.path.realpath(path))  # unlike `resolve`, takes a link to itself
    if real in seen:
        raise UsageError(f"{path}: extends itself, through {' -> '.join(map(str, seen))}")
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        preset = f"; it is a preset: write a file with extends: {path} in it" if str(path) in preset_names() else ""
        raise UsageError(f"{path}: {os.strerror(error.errno or 0)}{preset}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UsageError(f"{path}: not valid YAML{line}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: not a run's configuration (a mapping of keys); see README.md for one")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    return merge(_read_tree(_find_base(path, str(base)), (*seen, real)), tree)


def _find_base(path: Path, base: str) -> Path:
    for candidate in (PRESETS / f"{base}.yaml", path.parent / base):
        if candidate.is_file():
            return candidate
    raise UsageError(f"{path}: extends: {base} is neither a preset nor a file; {presets_like(base)}")


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def presets_like(name: str) -> str:
    """A hint for a name that no preset has."""
    near = difflib.get_close_matches(name, preset_names(), n=3, cutoff=0.4)
    return (f"did you mean {', '.join(near)}? " if near else "") + "all of them: vitstream presets"


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` over `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The first complaint about a tree that should have been a `root`, as one line that names the key."""
    found = error.errors()
    first = found[0]
    loc = [str(part) for part in first["loc"]]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        known = _fields_at(root, loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    if first["type"] == "missing":
        return f"missing key {key}"
    message = _in_yaml(first["msg"])
    names_a_key = len(loc) < 2 or loc[-1].isdigit() or _fields_at(root, loc[:-1])
    if not names_a_key:  # but the kind of value that it is not, as of all others that it takes
        key = ".".join(loc[:-1])
        messages = [_in_yaml(each["msg"]) for each in found if each["loc"][:-1] == first["loc"][:-1]]
        message = ", or ".join(messages).replace("or Input should be", "or")
    return f"{key}: {message}" if key else message


def _in_yaml(message: str) -> str:
    """pydantic's words as those of who writes YAML."""
    message = message.removeprefix("Value error, ").replace("a valid tuple", "a list")
    return re.sub("a valid dictionary or instance of .*", "a section with keys of its own", message)


def _fields_at(root: type[BaseModel], loc: list[str]) -> list[str]:
    """Names of the keys that the section at `loc` knows."""
    section: Any = root
    for part in (part for part in loc if not part.isdigit()):  # of a list, its elements
        if part not in section.model_fields:
            return []
        annotation = section.model_fields[part].annotation
        section = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)
