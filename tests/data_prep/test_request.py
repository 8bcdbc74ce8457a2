"""The command line of `vitstream shard`, checked before anything is listed, which may take hours."""

import os
from pathlib import Path

import pytest

from data_prep.options import Options
from data_prep.request import Slice, from_command_line, hash_of
from data_prep.sources import open_sources
from data_prep.sources.options import SourceOptions
from pipeline.dataset.errors import UsageError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit": 0}, "--limit 0: expected 1 to"),
        ({"limit": 10**26}, "--limit 1000"),
        ({"per_class": 10**26}, "--per-class 1000"),
        ({"max_seconds": 2**64 + 1}, "--max-seconds 1844"),
        ({"seed": -1}, "--seed -1: expected 0 to"),
        ({"seed": 2**64}, "--seed 1844"),
        ({"where": "  "}, "--where '': empty"),
        ({"val_fraction": float("nan")}, "--val-fraction nan"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values, said):
    with pytest.raises(UsageError) as refused:
        Options(**values).check_values()
    assert said in str(refused.value)


def test_a_limit_of_rejects_that_is_none_is_refused_at_once():
    options = ("as_is", "quality", "keep", "classes", "size", "val_fraction", "seed", "max_seconds", "where")
    options += ("per_class", "limit", "reencode", "max_pixels", "subsets", "labels", "image", "key", "task")
    given = dict.fromkeys(options) | {"check": "decode", "shard_size": "1MB", "sources": ["x"], "out": Path("y")}
    assert from_command_line(given | {"max_rejects": "1%", "stop_after": None}).max_rejects == "1%"
    with pytest.raises(UsageError, match="--max-rejects 'many'"):
        from_command_line(given | {"max_rejects": "many", "stop_after": None})


@pytest.mark.parametrize("text", ["0/0", "5/3", "-1/3", "1", "1/3/5", "a/b", ""])
def test_tasks_that_are_none(text):
    with pytest.raises(UsageError, match="--task"):
        Slice.parse(text)


def test_lists_that_could_not_be_read_twice_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError, match=r"--classes .*: no regular file"):
            hash_of("--classes", path)
    with pytest.raises(UsageError, match="cannot be read"):
        hash_of("--keep", tmp_path / "none")


def test_an_empty_source_is_not_the_folder_that_one_is_in():
    with pytest.raises(UsageError, match="SOURCE '': empty"):
        open_sources([""], SourceOptions())
