"""DIR/.dedup-work: what was asked for and the hashes of the shards that are done, kept until the result stands.

asked.json   what a later run has to ask for too
corpus/      the parts of DATASET (scan.py)
against-N/   those of evaluation set N
lock         held by the process that works here
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from data_prep.common.unfinished import work_folder
from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import write_json

WORK_NAME: Final = ".dedup-work"
_ADVICE: Final = "ask for the same, choose another --out, or delete it"


@contextmanager
def agreed_folder(out: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """The work folder of `out`. Raises UsageError as `work_folder`, and where it was begun for something else."""
    with work_folder(out, "dedup") as work:
        _agree(out, work / "asked.json", asked)
        yield work


def check_same(out: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UsageError naming the first thing in which `now` differs from what DIR was made for."""
    for name, value in now.items():
        if stored.get(name) != value:
            option = {"dataset": "DATASET", "against": "--dedup-against"}.get(name, f"--{name.replace('_', '-')}")
            then = json.dumps(stored.get(name), ensure_ascii=False)
            told = f"{option} {then} then, {json.dumps(value, ensure_ascii=False)} now"
            raise UsageError(f"--out {out}: made for other arguments ({told}); {_ADVICE}")


def _agree(out: Path, path: Path, asked: Mapping[str, Any]) -> None:
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError
    except FileNotFoundError:
        write_json(path, dict(asked))
        return
    except (OSError, ValueError):
        raise UsageError(f"{path}: damaged; delete {path.parent} and start again") from None
    check_same(out, stored, asked)
