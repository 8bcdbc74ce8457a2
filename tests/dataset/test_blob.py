"""A local file's parts come as they lie there, however they are cut."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.blob import LocalBlob

pytestmark = pytest.mark.fast

CONTENT = bytes(n * 7 % 251 for n in range(5000))


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> LocalBlob:
    path: Path = tmp_path_factory.mktemp("blob") / "x.bin"
    path.write_bytes(CONTENT)
    return LocalBlob(path)


@settings(max_examples=200, deadline=None)
@given(
    start=st.integers(0, 5100), cuts=st.lists(st.tuples(st.integers(-20, 60), st.integers(0, 90)), min_size=1)
)  # negative: the next one begins before the last has ended
def test_parts_are_what_lies_there(blob: LocalBlob, start: int, cuts: list[tuple[int, int]]) -> None:
    parts, at = [], start
    for gap, length in cuts:
        offset = max(parts[-1][0] if parts else 0, at + gap)
        parts.append((offset, length))
        at = offset + length
    assert list(map(bytes, blob.read_parts(parts))) == [CONTENT[offset : offset + length] for offset, length in parts]


def test_more_parts_than_one_call_takes(blob: LocalBlob) -> None:
    parts = [(n, 1) for n in range(len(CONTENT))]
    assert b"".join(blob.read_parts(parts)) == CONTENT
