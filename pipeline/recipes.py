"""The recipes that ship, pipeline/presets/*.yaml: listed, and as a whole configuration. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Config, load_config
from pipeline.config_preset import Preset
from pipeline.config_tree import PRESETS, preset_names, presets_like, read_tree
from pipeline.dataset.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """A preset, with all that it extends."""

    name: str
    config: Config  # with places made up for what it leaves to the run

    @property
    def preset(self) -> Preset:
        assert self.config.preset is not None
        return self.config.preset

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name} | self.preset.model_dump(mode="json") | {"config": self.tree}

    @property
    def tree(self) -> dict[str, Any]:
        """All that it says of a run, with what it extends."""
        tree = read_tree(PRESETS / f"{self.name}.yaml")
        return {key: value for key, value in tree.items() if key != "preset"}


def recipe(name: str) -> Recipe:
    """Raises UsageError for a name that no preset has."""
    path = preset_path(name)
    if path is None:
        raise UsageError(f"presets: {name} is none; {presets_like(name)}")
    return Recipe(name, load_config(path, elsewhere=True))


def preset_path(name: str) -> Path | None:
    """The file of a preset, or None."""
    path = PRESETS / f"{name}.yaml"
    return path if name in preset_names() else None


def as_lines(found: Recipe) -> list[str]:
    """A recipe as a person reads it, its configuration as YAML at the end."""
    preset = found.preset
    facts = {
        found.name: preset.title,
        "source": preset.source,
        "command": preset.command,
        "expected": preset.expected,
        "data": f"{preset.dataset}: {preset.dataset_samples:,} images in {preset.dataset_classes:,} classes",
    }
    width = max(map(len, facts))
    lines = [f"{key:{width}}  {value}" for key, value in facts.items()]
    lines += [f"{'differs':{width}}  {each}" for each in preset.differs]
    lines += [f"{'sweep':{width}}  {key}: {', '.join(map(str, values))}" for key, values in preset.sweep.items()]
    if preset.verb == "finetune":
        lines.append(f"{'verb':{width}}  made for vitstream finetune; train takes it, too, with model.init")
    return [*lines, "", *yaml.safe_dump(found.tree, sort_keys=False, width=110).splitlines()]
