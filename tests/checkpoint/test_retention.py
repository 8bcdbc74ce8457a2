"""What is pruned, what stays, and that nothing is written over."""

import pytest

from pipeline.checkpoint.manifest import published, step_name
from pipeline.checkpoint.retention import Retention, prune, remove_leftovers, set_aside, strangers

pytestmark = pytest.mark.fast


def make(folder, *names):
    for name in names:
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)


def steps(folder):
    return [int(path.name[5:]) for path in published(folder)]


def test_the_newest_those_of_every_so_many_steps_and_protected_ones_stay(tmp_path):
    make(tmp_path, *map(step_name, range(10, 110, 10)))
    (tmp_path / step_name(20) / "keep").touch()
    prune(tmp_path, Retention(last=2, every=40))
    assert steps(tmp_path) == [20, 40, 80, 90, 100]
    assert {path.name for path in tmp_path.iterdir()} == set(map(step_name, (20, 40, 80, 90, 100)))
    (tmp_path / step_name(20) / "keep").unlink()
    prune(tmp_path, Retention(last=1), in_use=[tmp_path / step_name(80)])
    assert steps(tmp_path) == [80, 100]


def test_pruning_goes_on_where_it_was_killed(tmp_path):
    make(tmp_path, step_name(10), f"{step_name(10)}.tmp-pruned", step_name(20))
    prune(tmp_path, Retention(last=1))
    assert [path.name for path in tmp_path.iterdir()] == [step_name(20)]


def test_leftovers_go_and_damaged_ones_stay(tmp_path):
    make(tmp_path, "step-00000010.tmp-003", "step-00000010.tmp-pruned", "step-00000010.damaged-001", step_name(10))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [step_name(10), "step-00000010.damaged-001"]


def test_what_was_set_aside_is_never_written_over(tmp_path):
    for number in range(3):
        make(tmp_path, step_name(10))
        (tmp_path / step_name(10) / "file").write_text(str(number))
        set_aside(tmp_path / step_name(10), attempt=4)
    names = [f"step-00000010.damaged-004{suffix}" for suffix in ("", "-2", "-3")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [(tmp_path / name / "file").read_text() for name in names] == ["0", "1", "2"]


def test_names_that_are_none_of_ours_are_noticed(tmp_path):
    make(tmp_path, step_name(10), "step-00000010.damaged-004-2", "step-00000020.tmp-000", "step-00000020.bak", "step-7")
    assert [path.name for path in strangers(tmp_path)] == ["step-00000020.bak", "step-7"]
    assert strangers(tmp_path / "nowhere") == []
