"""The bar on a terminal: images done, images per second, time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.common.workers import Advance


@contextmanager
def progress_bar(what: str, total: int | None, done: int, shown: bool) -> Iterator[Advance]:
    """Yields what is to be told of every image. Draws on stderr, and only where `shown`."""
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images per second of the last half minute."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} images/s" if task.speed else "- images/s")

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), Rate(), "ETA", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
