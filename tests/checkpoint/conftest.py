"""A small checkpoint in two files."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import stream
from pipeline.checkpoint.files import write_slices
from pipeline.checkpoint.state import Slice
from tests.checkpoint.test_manifest import manifest

NAMES = ("rank-00000.safetensors", "rank-00001.safetensors")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A checkpoint of step 7 in two files, with blocks of 64 bytes."""
    folder = tmp_path_factory.mktemp("verify") / "step-00000007"
    folder.mkdir()
    values = torch.arange(1.0, 101.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_BYTES", 64)
        slices = [Slice("a", (100,), start, start + 50, {"weight": values[start : start + 50]}) for start in (0, 50)]
        written = [write_slices(folder / name, [part]) for name, part in zip(NAMES, slices, strict=True)]
    pieces = [piece for _, pieces in written for piece in pieces["weight/a"]]
    manifest(files=[file for file, _ in written], shapes={"a": [100]}, tensors={"weight/a": pieces}).write(folder)
    return folder


@pytest.fixture
def checkpoint(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / sound.name))
