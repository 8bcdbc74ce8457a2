"""One rank of two that choose a checkpoint, each through its own view of the file system.

python -m tests.checkpoint.choose_rank FOLDER RANK CASE... prints a line for each FOLDER/CASE-RANK: what came of it.
"""

import json
import os
import sys
from pathlib import Path

from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.distributed import World
from pipeline.launch.environment import RankEnvironment


def main(folder: Path, rank: int, cases: list[str]) -> None:
    world = World(RankEnvironment(rank, 2, rank), str(folder / "rendezvous"))
    for case in cases:
        try:
            chosen = choose_checkpoint(folder / f"{case}-{rank}", 1, world, lambda line: None)
            print(json.dumps(["chosen", chosen and chosen[0].name]))
        except (UsageError, WorkFailed) as error:
            print(json.dumps([type(error).__name__, str(error)]))
    world.close()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
