"""Slices become safetensors files that the format's own library reads, and come back by any other slices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.checkpoint.files import TensorReader, bytes_of, shares, write_slices
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.state import WEIGHT, Slice
from pipeline.optim.masters import MOMENTS
from tests.checkpoint.test_manifest import manifest

pytestmark = pytest.mark.fast

KINDS = (WEIGHT, *MOMENTS)
SHAPES = {"a.weight": (7, 11), "a.bias": (7,), "token": (1, 1, 5), "scale": (1,)}
WHOLE = {
    f"{kind}/{name}": torch.randn(shape, generator=torch.Generator().manual_seed(17 * number + at))
    for number, (name, shape) in enumerate(SHAPES.items())
    for at, kind in enumerate(KINDS)
}


def dealt(ranks: int) -> list[list[Slice]]:
    """All parameters, one after the other, cut evenly."""
    total = sum(map(math.prod, SHAPES.values()))
    share = -(-total // ranks)
    parts: list[list[Slice]] = [[] for _ in range(ranks)]
    offset = 0
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        for rank in range(ranks):
            start, stop = max(offset, rank * share) - offset, min(offset + size, (rank + 1) * share) - offset
            if start < stop:
                values = {kind: WHOLE[f"{kind}/{name}"].view(-1)[start:stop] for kind in KINDS}
                parts[rank].append(Slice(name, shape, start, stop, values))
        offset += size
    return parts


def written(folder, ranks: int) -> CheckpointManifest:
    files, tensors = [], {}
    for rank, slices in enumerate(dealt(ranks)):
        file, pieces = write_slices(folder / f"rank-{rank:05d}.safetensors", slices)
        files.append(file)
        for key, piece in pieces.items():
            tensors.setdefault(key, []).extend(piece)
    return manifest(files=files, shapes={name: list(shape) for name, shape in SHAPES.items()}, tensors=tensors)


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_library_of_the_format_reads_what_we_write(tmp_path, ranks):
    made = written(tmp_path, ranks)
    for file, slices in zip(made.files, dealt(ranks), strict=True):
        path = tmp_path / file["name"]
        loaded = load_file(path)
        assert loaded.keys() == {f"{kind}/{part.name}" for part in slices for kind in KINDS}
        for part in slices:
            for kind, values in part.tensors.items():
                found = loaded[f"{kind}/{part.name}"]
                assert found.shape == (part.shape if part.is_whole else (part.stop - part.start,))
                assert torch.equal(found.view(-1), values)
        with safe_open(path, framework="np") as tensors, path.open("rb") as opened:
            assert len(list(tensors.keys())) == len(loaded)
            header = int.from_bytes(opened.read(8), "little")
        assert header % 8 == 0 and file["bytes"] == path.stat().st_size == 8 + header + bytes_of(slices)


@pytest.mark.parametrize("writers", [1, 2, 5])
@pytest.mark.parametrize("readers", [1, 3])
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path, writers, readers):
    reader = TensorReader(tmp_path, written(tmp_path, writers))
    for slices in dealt(readers):
        empty = [
            Slice(p.name, p.shape, p.start, p.stop, {kind: torch.full_like(v, -1) for kind, v in p.tensors.items()})
            for p in slices
        ]
        reader.restore(empty)
        for part, expected in zip(empty, slices, strict=True):
            assert all(torch.equal(part.tensors[kind], expected.tensors[kind]) for kind in KINDS)
    assert all(torch.equal(values, WHOLE[f"weight/{name}"]) for name, values in reader.weights().items())
    assert torch.equal(reader.read("exp_avg/a.weight", 5, 50), WHOLE["exp_avg/a.weight"].view(-1)[5:50])


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 300))
def test_parts_are_the_slices_in_order_and_about_equal(sizes, most_bytes):
    slices = [Slice(str(n), (size,), 0, size, {WEIGHT: torch.zeros(size)}) for n, size in enumerate(sizes)]
    parts = shares(slices, most_bytes)
    assert [part.name for each in parts for part in each] == [part.name for part in slices]
    largest = max(map(bytes_of, [[part] for part in slices]), default=0)
    assert all(bytes_of(part) < most_bytes + largest for part in parts) or bytes_of(slices) <= most_bytes
    assert len(parts) == 1 or all(parts)
