"""Which hosts are taken for lost: those that do not answer, while others do."""

import os
from pathlib import Path

import pytest

from pipeline.cluster.srun import silent_hosts

pytestmark = pytest.mark.fast

SRUN = """#!/bin/sh
for word; do
  case " $ALIVE " in *" ${word#--nodelist=} "*) echo here; exit 0;; esac
done
exit 1
"""


@pytest.mark.parametrize(
    ("alive", "asked", "silent"),
    [
        ("n1 n2 n3", ["n2", "n3"], []),
        ("n1 n3", ["n2", "n3"], ["n2"]),
        ("n1", ["n1", "n2", "n3"], ["n2", "n3"]),
        ("", ["n2", "n3"], []),  # SLURM does not answer: nobody knows
        ("n3", ["n1", "n2", "n3"], []),
    ],
)
def test_a_host_is_silent_where_ours_is_not(alive, asked, silent, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ALIVE", alive)
    assert silent_hosts(asked, "n1") == silent
