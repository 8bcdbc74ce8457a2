"""A loader worker: a process that fills its rows of the ring, item by item, as far ahead as it is allowed to.

The rank sends numbers of items that may be made up to (a slot is free again); the worker answers each item with what
it did (`Part`), as JSON. Both ends are the same program; only what a worker is told at its birth is pickled.
"""

import json
import os
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from pipeline.data.part import Part
from pipeline.data.recipe import Recipe
from pipeline.data.ring import Ring, Shape
from pipeline.data.sample import Hole
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.processes import keep_freed_memory
from pipeline.dataset.remote.traffic import Fetched


@dataclass(frozen=True)
class Birth:
    """What makes a worker this one."""

    recipe: Recipe
    number: int
    workers: int
    shape: Shape  # of the ring

    def tell(self, connection: Connection) -> None:
        """The worker at its other end. One that has ended by now is noticed when it is asked."""
        with suppress(OSError):
            connection.send(self)


def born(connection_fd: int, ring_fd: int) -> NoReturn:
    """A worker's life, in a process of its own. It ends with the feed, its rank, or a failure that it has told."""
    from pipeline.data.maker import Maker  # with the decoders, which its rank does not need

    keep_freed_memory()
    connection = Connection(connection_fd)
    try:
        birth: Birth = connection.recv()
        recipe, ring = birth.recipe, Ring(birth.shape, ring_fd)
        maker = Maker(recipe, birth.number, birth.workers)
        allowed = 0
        for item in range(recipe.feed.items):
            while item >= allowed:
                allowed = int.from_bytes(connection.recv_bytes(8), "little")
            connection.send_bytes(json.dumps(asdict(maker.make(item, ring.slot(item)))).encode())
        connection.recv_bytes(8)  # until the rank hangs up: the last rows are read from shared memory
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException as error:
        connection.send_bytes(json.dumps(_failure(error)).encode())
    finally:
        os._exit(0)  # threads that wait for a storage do not keep it


def receive(connection: Connection) -> Part:
    """The next part that a worker has made, on the rank's side.

    Raises:
        EOFError, OSError: it has ended.
        WorkFailed, RuntimeError: it has failed; the latter with its traceback.
    """
    body = json.loads(connection.recv_bytes())
    if "failed" in body:
        raise WorkFailed(**body["failed"])
    if "trace" in body:
        raise RuntimeError(body["trace"])
    holes = [(part, epoch, Hole(**hole)) for part, epoch, hole in body["holes"]]
    return Part(**(body | {"holes": holes, "fetched": Fetched(*body["fetched"])}))


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, WorkFailed):
        return {"failed": {"message": str(error), "cause": error.cause, "resumable": error.resumable}}
    lines = traceback.format_exception(error)
    return {"trace": f"loader worker: {lines[-1].strip()}\n{''.join(lines)}"}
