"""`vitstream order`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.data.corpus import Corpus
    from pipeline.data.lookup import Course

EXAMPLE = "Example: vitstream order data/train --batch-size 4096 --step 1000 --world-size 8 --rank 3"


def order(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATASET|RUN.yaml",
            help="A DATASET or MDS folder, or its URL; or a run's configuration, which says batch size and seed too.",
            show_default=False,
        ),
    ],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The run's global batch size.", show_default=False)
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="Which step's keys; the first is 1.", show_default=False)
    ] = None,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks of the run.")] = 1,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Only this rank's part of the batch.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The run's seed. Default: 0, or RUN.yaml's.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="The run's epochs: its last step ends where they end.", show_default=False),
    ] = None,
    key: Annotated[str | None, typer.Option(help="When and where this sample is read.", show_default=False)] = None,
    epoch: Annotated[int, typer.Option(min=0, help="With --key: in which epoch; the first is 0.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of RUN.yaml; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Which samples a step reads, in order, or with --key, at which step, rank and slot a sample is read.

    The same as `train` with these settings: steps and keys are those of its metrics.jsonl. Of a RUN.yaml whose run has
    a checkpoint, the order and the batch sizes are those that it keeps. No image is read; --key may read all indexes.
    Of a DATASET without --epochs the order goes on for ever: a run's last step may be partial, and reads fewer keys
    than shown. Exit codes: 0 done, 1 an index cannot be used, 2 wrong usage or input.
    """
    from json import dumps

    from pipeline.cli.output import say
    from pipeline.data.lookup import keys_of_step, place_of_key
    from pipeline.dataset.errors import UsageError

    if (step is None) == (key is None):
        raise UsageError("order: takes either --step or --key")
    if rank is not None and rank >= world_size:
        raise UsageError(f"--rank {rank}: the ranks of --world-size {world_size} are 0 to {world_size - 1}")
    corpus, course = _asked(data, batch_size, seed, epochs, set_ or [])
    if course.batch_size < world_size:
        raise UsageError(f"--batch-size {course.batch_size} is smaller than --world-size {world_size}")
    if step is not None:
        found = keys_of_step(corpus, course, step, world_size, rank)
        lines = found["keys"]
    else:
        found = place_of_key(corpus, course, str(key), epoch, world_size)
        lines = [_line(epoch, place) for place in (found, *found.get("others", ()))]
    say(*([dumps(found)] if json else lines))


def _asked(
    data: str, batch_size: int | None, seed: int | None, epochs: int | None, overrides: list[str]
) -> "tuple[Corpus, Course]":
    """The data and the run that are meant. Raises UsageError where the options contradict RUN.yaml."""
    from dataclasses import replace

    from pipeline.config import load_config
    from pipeline.data.corpus import Corpus, Member, open_corpus, order_from_json
    from pipeline.data.lookup import Course
    from pipeline.data.stretches import resumed
    from pipeline.dataset.errors import UsageError
    from pipeline.dataset.location import Location
    from pipeline.dataset.opening import read_dataset
    from pipeline.launch.mosaic import refuse
    from pipeline.launch.preflight import newest_checkpoint
    from pipeline.run.directory import RunDirectory

    if seed is not None and seed >= 2**63:
        raise UsageError(f"--seed {seed}: expected 0 to {2**63 - 1}, as in RUN.yaml")
    location = Location.of(data)
    is_yaml = data.endswith((".yaml", ".yml"))  # or would be: then the file is missing, not the dataset
    if location.is_remote or location.path.is_dir() or not (is_yaml or location.path.is_file()):
        if batch_size is None:
            raise UsageError(f"{location}: takes --batch-size with it, as its order depends on that; or give RUN.yaml")
        if overrides:
            raise UsageError(f"--set {overrides[0]}: overrides a key of RUN.yaml, and {location} is a dataset")
        member = Member(location, read_dataset(location, needs_classes=False))
        return Corpus((member,)), Course(batch_size, seed or 0, epochs)
    config = load_config(location.path, overrides)
    refuse(config, "order")
    for key, option in {"batch_size": batch_size, "seed": seed, "epochs": epochs}.items():
        value = getattr(config, key)
        if option not in (None, value):
            has = f"has {key}: {value}" if value is not None else f"has steps: {config.steps}"
            raise UsageError(f"--{key.replace('_', '-')} {option}: {data} {has}; leave the option out")
    corpus = open_corpus(config.data.train, classes=config.data.classes)
    course = Course(config.batch_size, config.seed, config.epochs, config.steps)
    checkpoint = newest_checkpoint(config, RunDirectory(config.run_dir), corpus, accept_changes=True)
    if checkpoint is None:
        return corpus, course
    past = resumed(checkpoint.stretches, checkpoint.step, checkpoint.consumed, config.batch_size)
    return corpus, replace(course, known=order_from_json(checkpoint.data["order"]), past=past)


def _line(epoch: int, place: dict) -> str:
    of = f" of {place['dataset']}" if "dataset" in place else ""
    return f"epoch {epoch}{of}: step {place['step']}, rank {place['rank']}, slot {place['slot']}"
