"""What rank 0 says: each line once, in its log and on its terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import CHECKOUT

SAY = "import sys; from pathlib import Path; from pipeline.run.console import Console\n"
SAY += "console = Console(True, Path(sys.argv[1])); console.say('one'); console.progress('two')"


def said(log: Path, stdout: Path) -> None:
    with stdout.open("ab") as file:
        subprocess.run([sys.executable, "-c", SAY, str(log)], cwd=CHECKOUT, stdout=file, check=True)


@pytest.mark.fast
def test_where_its_output_is_its_log_a_line_is_written_once(tmp_path: Path) -> None:
    said(tmp_path / "rank-0.log", tmp_path / "rank-0.log")
    assert [line.split()[1] for line in (tmp_path / "rank-0.log").read_text().splitlines()] == ["one", "two"]


@pytest.mark.fast
def test_else_it_is_in_both(tmp_path: Path) -> None:
    said(tmp_path / "rank-0.log", tmp_path / "out")
    for name in ("rank-0.log", "out"):
        assert len((tmp_path / name).read_text().splitlines()) == 2
