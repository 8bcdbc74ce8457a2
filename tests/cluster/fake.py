"""SLURM's commands in the form of scripts that write down what they are given; for what needs no cluster."""

import os
from pathlib import Path

import pytest

# Arguments, NUL between them, a record separator after each call.
RECORD = '#!/bin/bash\nprintf "%s\\0" "$@" >> "${0%/*}/NAME.calls"; printf "\\036" >> "${0%/*}/NAME.calls"\n'


class Fake:
    """A folder of commands, first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def says(self, name: str, script: str) -> None:
        """Bash that follows after the arguments have been written down."""
        path = self.folder / name
        path.write_text(RECORD.replace("NAME", name) + script)
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        path = self.folder / f"{name}.calls"
        if not path.exists():
            return []
        records = os.fsdecode(path.read_bytes()).split("\036")[:-1]
        return [record.split("\0")[:-1] for record in records]

    def forget(self) -> None:
        for path in self.folder.glob("*.calls"):
            path.unlink()

    def queue(self, *lines: str) -> None:
        """What squeue answers: lines in our columns."""
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))
        self.says("squeue", 'cat "${0%/*}/queue"')


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A cluster with nothing in its queue."""
    fake = Fake(tmp_path / "slurm-commands", monkeypatch)
    fake.queue()
    fake.says("sbatch", 'echo $(($(tr -cd "\\036" < "${0%/*}/sbatch.calls" | wc -c) + 100))')
    fake.says("scancel", "")
    fake.says("scontrol", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    return fake
