"""Ctrl-C and SIGTERM, answered the same by every verb that can go on later."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.dataset.errors import StoppedResumable


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Turns SIGINT and SIGTERM into StoppedResumable, in the main thread; `kept` says what is not lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        name = signal.Signals(number).name
        raise StoppedResumable(f"stopped by {name}; {kept}: run the same command again to continue")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
