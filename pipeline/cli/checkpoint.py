"""`vitstream checkpoint`: list, verify, keep, export, import."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="A run's checkpoints: list, verify, keep; export to Hugging Face; import from DeepSpeed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Place = Annotated[
    Path,
    typer.Argument(metavar="RUN|STEP", help="A run's folder, or RUN/checkpoints/step-N.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog="Example: vitstream checkpoint ls runs/b16")
def ls(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)],
    json: Json = False,
) -> None:
    """Lists a run's checkpoints, the damaged and the unfinished ones too. Reads manifests and sizes, hashes nothing.

    Exit codes: 0 done, 2 no run there.
    """
    from json import dumps

    from pipeline.checkpoint.listing import as_lines, listed
    from pipeline.cli.output import say
    from pipeline.run.directory import RunDirectory

    entries = listed(RunDirectory(run))
    say(*([dumps({"checkpoints": [entry.to_json() for entry in entries]})] if json else as_lines(entries)))


@app.command(epilog="Example: vitstream checkpoint verify runs/b16/checkpoints/step-00001000")
def verify(place: Place, json: Json = False) -> None:
    """Reads every byte of a run's checkpoints, or of one, and says which file is not what was written, and where.

    Exit codes: 0 all verify, 1 one does not, 2 no checkpoint there.
    """
    from json import dumps

    from pipeline.checkpoint.listing import checkpoints_of
    from pipeline.checkpoint.manifest import Damaged
    from pipeline.checkpoint.verify import verify as verify_bytes
    from pipeline.cli.output import say
    from pipeline.dataset.errors import UsageError, WorkFailed

    damages: dict[str, str | None] = {}
    for path in checkpoints_of(place):
        try:
            manifest = verify_bytes(path)
        except Damaged as damage:
            damages[path.name] = str(damage)
            what = f"damaged: {damage}"
        except (UsageError, WorkFailed) as error:
            damages[path.name] = str(error)
            what = f"not verified: {error}"
        else:
            damages[path.name] = None
            what = f"verifies: {sum(file['bytes'] for file in manifest.files):,} bytes"
        if not json:
            say(f"{path.name} {what}")
    if json:
        found = [{"name": name, "verifies": not damage, "damage": damage} for name, damage in damages.items()]
        say(dumps({"checkpoints": found}))
    if damaged := [name for name, damage in damages.items() if damage]:
        raise WorkFailed(f"{place}: {len(damaged)} of {len(damages)} checkpoints do not verify: {', '.join(damaged)}")


@app.command(epilog="Example: vitstream checkpoint keep runs/b16/checkpoints/step-00001000")
def keep(
    step: Annotated[Path, typer.Argument(metavar="STEP", help="RUN/checkpoints/step-N.", show_default=False)],
    release: Annotated[bool, typer.Option("--release", help="Let it be pruned again.")] = False,
) -> None:
    """Protects a checkpoint from pruning, whatever checkpoint.keep_last says: writes a file `keep` into it.

    Exit codes: 0 done, 2 no checkpoint there.
    """
    from pipeline.checkpoint.listing import set_keep
    from pipeline.cli.output import say

    set_keep(step, kept=not release)
    say(f"{step.name} {'may be pruned' if release else 'is kept'}")


@app.command(epilog="Example: vitstream checkpoint export runs/b16 --to huggingface --out b16-hf")
def export(
    place: Place,
    out: Annotated[Path, typer.Option(help="What to make: a folder, or with --to safetensors a file.")],
    to: Annotated[str, typer.Option(help="huggingface or safetensors.")] = "huggingface",
    weights: Annotated[str, typer.Option(help="model, or ema: their moving average.")] = "model",
    json: Json = False,
) -> None:
    """Makes of a checkpoint what other tools open: of a run's newest that verifies, or of the one named.

    huggingface: a folder for transformers (4.57 or later) with weights, preprocessing and a model card.
    safetensors: one file of the named fp32 weights; model and classes are in its metadata.
    Exit codes: 0 done, 1 it is damaged, 2 wrong usage, or a model that the format cannot express.
    """
    from json import dumps

    from pipeline.checkpoint.export import export as write
    from pipeline.cli.output import say

    exported = write(place, to, out, weights)
    say(dumps(exported.to_json()) if json else str(exported))


@app.command("import", epilog="Example: vitstream checkpoint import old/global_step5000 --run run.yaml --trust")
def import_(
    native: Annotated[
        Path, typer.Argument(metavar="DIR", help="What DeepSpeed's save_checkpoint wrote.", show_default=False)
    ],
    run: Annotated[Path, typer.Option("--run", metavar="RUN.yaml", help="The run that goes on from it.")],
    trust: Annotated[bool, typer.Option("--trust", help="It is a pickle: run what it says.")] = False,
    step: Annotated[
        int | None, typer.Option(min=0, help="Optimizer steps done. Default: as it says.", show_default=False)
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=0, help="Samples used. Default: as it says.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of RUN.yaml; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Makes a checkpoint of a native DeepSpeed one, of ZeRO stage 1, 2 or 3, with its optimizer state.

    `vitstream train RUN.yaml` then goes on from it, on any number of processes, at any stage.
    Exit codes: 0 done, 1 it cannot be read, 2 wrong usage, or a checkpoint that does not fit the run.
    """
    from json import dumps

    from pipeline.checkpoint.adopt import adopt
    from pipeline.cli.output import say
    from pipeline.config import load_config

    adopted = adopt(native, load_config(run, set_ or []), trust, step, samples)
    say(*([dumps(adopted.to_json())] if json else adopted.lines()))
