"""`vitstream presets`."""

from typing import Annotated

import typer

EXAMPLE = "Example: vitstream presets vit-l16-i21k"


def presets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The recipes that ship: with a NAME its source, its published result and all its keys.

    RUN.yaml takes one with `extends: NAME`. Exit codes: 0 done, 2 no such preset.
    """
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.config_tree import preset_names
    from pipeline.recipes import as_lines, recipe

    if name is not None:
        found = recipe(name)
        say(*([dumps(found.to_json())] if json else as_lines(found)))
        return
    found = [recipe(each) for each in preset_names()]
    if json:
        say(dumps({"presets": [each.to_json() for each in found]}))
        return
    width = max(len(each.name) for each in found)
    say(*(f"{each.name:{width}}  {each.preset.title}" for each in found))
