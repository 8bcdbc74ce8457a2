"""Ranks of a run without a model: `python -m tests.soak.stream_rank`.

It imports once what a rank needs, and forks one for every line of its standard input: a `Life` as JSON, and the rank's
number. A rank is a session of its own. It appends a line to FOLDER/RANK.jsonl for each step that it has done, on disk
before the next is begun, and says in FOLDER/RANK.end how it ended; one that was killed does not.

Loader workers import this module, too, since it is their rank's main one: so it imports nothing big at its top.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def _born(line: str) -> None:
    """A forked rank."""
    from tests.soak.stream_life import Life

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    body = json.loads(line)
    rank, life = body.pop("rank"), Life(**body)
    try:
        life.live(rank)
        said = "done"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    (Path(life.folder) / f"{rank}.end").write_text(said)


def hatch(born: Callable[[str], None]) -> None:
    """The nest: forks a rank for every line of standard input, which is what it is born with."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended: the kernel clears them away
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                born(line)
            finally:
                os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    import tests.soak.stream_life  # noqa: F401  # before forking, so that ranks need not

    hatch(_born)
