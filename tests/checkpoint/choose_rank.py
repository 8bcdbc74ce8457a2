"""One rank of two that choose a checkpoint, each through its own view of the file system.

python -m tests.checkpoint.choose_rank FOLDER CASE... prints a line for each FOLDER/CASE-RANK: what came of it.
"""

import json
import os
import sys
from pathlib import Path

from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.distributed import World
from pipeline.launch.environment import RENDEZVOUS, RankEnvironment


def main(folder: Path, cases: list[str]) -> None:
    world = World(RankEnvironment.read(), os.environ[RENDEZVOUS])
    for case in cases:
        try:
            chosen = choose_checkpoint(folder / f"{case}-{world.rank}", 1, world, lambda line: None)
            print(json.dumps(["chosen", chosen and chosen[0].name]))
        except (UsageError, WorkFailed) as error:
            print(json.dumps([type(error).__name__, str(error)]))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
