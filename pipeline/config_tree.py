"""RUN.yaml as a tree of plain values: `extends` resolved, `--set` applied. Torch-free."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pipeline.dataset.errors import UsageError

PRESETS = Path(__file__).parent / "presets"


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
        tree = _merge(tree, branch)
    return tree


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UsageError(f"{path}: extends itself, through {' -> '.join(map(str, seen))}")
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {os.strerror(error.errno or 0)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UsageError(f"{path}: not valid YAML{line}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: not a run's configuration (a mapping of keys); see README.md for one")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    return _merge(_read_tree(_find_base(path, str(base)), (*seen, path.resolve())), tree)


def _find_base(path: Path, base: str) -> Path:
    for candidate in (PRESETS / f"{base}.yaml", path.parent / base):
        if candidate.is_file():
            return candidate
    presets = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    raise UsageError(f"{path}: extends: {base} is neither a preset nor a file; presets: {', '.join(presets)}")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
