"""A login node has no torch: preparing data neither needs it nor tries to import it."""

import os

import pytest

from tests.images import write_photo_folder
from tests.runs import vitstream

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "deepspeed", "transformers"):
            open({log!r}, "a").write(name + "\\n")
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def blocked(tmp_path):
    """An environment in which importing torch fails, and the file in which every attempt is noted."""
    log = tmp_path / "attempts"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BLOCKER.format(log=str(log)))
    return os.environ | {"PYTHONPATH": str(tmp_path / "site")}, log


def test_the_block_blocks(blocked):
    import subprocess
    import sys

    environment, log = blocked
    done = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "torch is blocked" in done.stderr and log.read_text() == "torch\n"


def test_shard_and_verify_work_where_importing_torch_fails(blocked, tmp_path):
    environment, log = blocked
    photos = write_photo_folder(tmp_path / "photos", classes=2, per_class=20)
    for command in (
        ("shard", photos, "--out", tmp_path / "data", "--size", 32, "--val-fraction", 0.2),
        ("verify", tmp_path / "data"),
        ("--help",),
        ("shard", "--help"),
        ("verify", "--help"),
    ):
        done = vitstream(*command, **environment)
        assert done.returncode == 0, done.stderr
        if "--help" in command[1:]:
            assert "Example: vitstream " + command[0] in done.stdout
    assert not log.exists()
