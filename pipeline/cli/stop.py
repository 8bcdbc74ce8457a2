"""`vitstream stop`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: vitstream stop runs/b16 --reason 'the machine goes down at noon' --wait"


def stop(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, or its YAML file.", show_default=False)],
    after_step: Annotated[
        int | None, typer.Option(min=1, help="Not before that step is done.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; for the verdict.", show_default=False)] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended; then prints its verdict.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --wait: the whole verdict, as JSON.")] = False,
) -> None:
    """Ask a run to save and end; the command that started it resumes it.

    Works on any machine that sees the run's folder, by a file STOP in it, which the run looks for every two seconds.
    Of a run on a cluster no job stays queued; where none of its jobs has started, they are cancelled.
    Exit codes: 0 asked, or with --wait stopped or finished, 1 the run failed meanwhile, 2 no run is under way there.
    """
    import json
    from dataclasses import asdict

    from pipeline.cli.output import say
    from pipeline.launch.stop import ask_to_stop, find_run, wait_for_the_end
    from pipeline.run.stop_file import StopOrder

    found = find_run(run)
    asked = ask_to_stop(found, StopOrder(" ".join(reason.split()), after_step))
    if not wait or not asked.is_awaited:
        say(f"{found.path}: {asked.words}")
        return
    verdict = wait_for_the_end(found)
    say(json.dumps(asdict(verdict)) if as_json else verdict.message)
