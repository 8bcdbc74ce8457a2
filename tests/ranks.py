"""Ranks for tests, forked from a process that has imported what they need: a start takes a tenth of the time.

Most of a short run's processor time is its ranks' imports of torch and DeepSpeed. Each rank here is a process of its
own nevertheless, as torchrun would have started it: it runs a module by its command line, meets the others with gloo,
and ends with an exit code. Where the start itself is what is tested, start the command (runs.py: `vitstream`, `start`).
"""

import json
import os
import runpy
import select
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipeline.dataset.processes import die_with
from pipeline.launch.environment import ATTEMPT, MASTER_ADDRESS, PARENT_PID, RENDEZVOUS

_HERE = Path(__file__).parent.parent


class Ended(NamedTuple):
    """What became of ranks."""

    codes: list[int]  # exit codes; minus the signal's number where one killed it
    said: list[str]  # stdout of each
    stderr: str  # of all

    @property
    def stdout(self) -> str:
        """Of rank 0, which alone speaks."""
        return self.said[0]


def run_ranks(module: str, arguments: Sequence[object], world: int, patience_s: float = 300.0) -> Ended:
    """`python -m MODULE ARGUMENTS...` as `world` ranks of one machine, to their end, in our environment.

    Once one of them fails, the others are killed. Raises AssertionError where they take longer than `patience_s`.
    """
    with TemporaryDirectory(prefix="ranks-") as folder:
        wanted = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "world": world,
            "environment": dict(os.environ),
            "folder": folder,
        }
        codes = _ask(wanted, patience_s)
        out, err = ([(Path(folder) / f"{rank}.{end}").read_text() for rank in range(world)] for end in ("out", "err"))
        return Ended(codes, out, "".join(err))


def _ask(wanted: dict[str, Any], patience_s: float) -> list[int]:
    nest = _nest()
    assert nest.stdin and nest.stdout
    nest.stdin.write(json.dumps(wanted) + "\n")
    nest.stdin.flush()
    if not select.select([nest.stdout], [], [], patience_s)[0]:
        nest.kill()  # and with it its ranks
        nest.wait()
        _nest.cache_clear()
        raise AssertionError(f"ranks that do not end: {wanted['module']} {wanted['arguments']}")
    return json.loads(nest.stdout.readline())


@lru_cache(maxsize=1)
def _nest() -> subprocess.Popen:
    """It ends with this process."""
    command = [sys.executable, "-m", "tests.ranks", str(os.getpid())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # what has threads cannot fork
    return subprocess.Popen(command, cwd=_HERE, env=environment, text=True, **pipes)


# -- in the nest ---------------------------------------------------------------------------------------------------


def _hatch(module: str, arguments: list[str], world: int, environment: dict[str, str], folder: str) -> list[int]:
    """Exit codes of the ranks, in order."""
    pids = {}
    for rank in range(world):
        us = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                die_with(us)
                _become(rank, world, environment, Path(folder))
                code = _run(module, arguments)
            finally:
                os._exit(code)
        pids[pid] = rank
    codes = [0] * world
    left = set(pids)
    while left:
        pid, status = os.wait()
        if pid not in left:
            continue
        left.remove(pid)
        codes[pids[pid]] = code = os.waitstatus_to_exitcode(status)
        for other in left if code else ():
            with suppress(ProcessLookupError):
                os.kill(other, 9)
    return codes


def _become(rank: int, world: int, environment: dict[str, str], folder: Path) -> None:
    """A rank, with files in place of the nest's pipes."""
    os.environ.clear()
    os.environ.update(environment)
    for name in (PARENT_PID, ATTEMPT, MASTER_ADDRESS):
        os.environ.pop(name, None)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), RENDEZVOUS: f"{folder}/meet"}
    for number, flags, path in (
        (0, os.O_RDONLY, "/dev/null"),
        (1, os.O_WRONLY | os.O_CREAT, folder / f"{rank}.out"),
        (2, os.O_WRONLY | os.O_CREAT, folder / f"{rank}.err"),
    ):
        file = os.open(path, flags, 0o600)
        os.dup2(file, number)
        os.close(file)


def _run(module: str, arguments: list[str]) -> int:
    """As `python -m`. Returns the exit code."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _serve() -> None:
    """Ranks for each line of standard input; their exit codes to standard output."""
    if not Path("/dev/nvidiactl").exists():  # a process that has met a GPU forks none that can use it
        from pipeline.engine import import_deepspeed

        import_deepspeed()
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401  # brings torch's compiler: half of a start

        import pipeline.cli
        import pipeline.rank
        import pipeline.train  # noqa: F401
    for line in sys.stdin:
        print(json.dumps(_hatch(**json.loads(line))), flush=True)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    _serve()
