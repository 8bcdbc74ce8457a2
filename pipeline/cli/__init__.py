"""The command line: a file per verb in this folder, each a thin, typed front of one function elsewhere.

A verb's file imports nothing but typer at its top: `vitstream --help` has to answer at once, and on a login node
there is no torch. Exit codes: 0 done, 1 the work failed, 2 wrong usage or input, 3 stopped but resumable.
"""

import sys

import typer

from pipeline.cli import (
    chaos,
    checkpoint,
    convert,
    dedup,
    finalize,
    index,
    inspect,
    logs,
    order,
    plan,
    presets,
    shard,
    status,
    stop,
    submit,
    train,
    verify,
    view,
)
from pipeline.dataset.errors import StoppedResumable, UsageError, WorkFailed
from pipeline.dataset.names import one_line

app = typer.Typer(
    name="vitstream",
    help="Pre-train Vision Transformers exactly: shard a corpus, stream it into ZeRO, resume after anything.",
    epilog="A run in two commands:  vitstream shard photos/ --out data --val-fraction 0.1"
    "   |   vitstream train run.yaml --nproc 2",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
VERBS = (
    shard,
    finalize,
    index,
    verify,
    inspect,
    dedup,
    view,
    convert,
    order,
    plan,
    presets,
    train,
    submit,
    status,
    logs,
    stop,
    chaos,
)
for verb in VERBS:
    app.command(epilog=verb.EXAMPLE)(getattr(verb, verb.__name__.rpartition(".")[2]))
app.add_typer(checkpoint.app, name="checkpoint")


def main() -> None:
    """Entry point of the `vitstream` command."""
    try:
        app()
    except (UsageError, WorkFailed, StoppedResumable) as error:
        print(f"vitstream: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader went away, as in `| head`
        sys.exit(1)
