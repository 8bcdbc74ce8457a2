"""What a verb prints: whole lines of valid UTF-8, whatever the names in them."""

import os
import sys

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.names import one_line


def say(*lines: str) -> None:
    """Prints these lines, at once. Raises WorkFailed where they cannot be written, as to a full disk."""
    try:
        print(*(f"{one_line(line)}\n" for line in lines), sep="", end="", flush=True)
    except BrokenPipeError:  # the reader went away, which is no failure of ours
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left over would fail again at exit
        raise WorkFailed(f"the output cannot be written: {error.strerror}") from None
