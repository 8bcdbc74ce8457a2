"""Folders that appear whole: of two that make one, one is refused; nothing is left of a failure."""

from pathlib import Path

import pytest

from data_prep.common.aside import aside
from data_prep.views import prefix_view
from pipeline.dataset.errors import UsageError, WorkFailed
from tests.datasets import make_dataset

pytestmark = pytest.mark.fast


def test_of_two_that_make_one_folder_one_is_refused(tmp_path: Path) -> None:
    with aside(tmp_path / "out") as folder:
        (folder / "a").touch()
        with pytest.raises(UsageError, match="another vitstream is making it"), aside(tmp_path / "out"):
            pass
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_what_a_failure_or_a_kill_left_goes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), aside(tmp_path / "out") as folder:
        (folder / "a").touch()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    (tmp_path / ".out.aside/old").mkdir(parents=True)
    (tmp_path / ".out.aside/link").symlink_to(tmp_path)
    with aside(tmp_path / "out") as folder:
        assert not list(folder.iterdir())
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_places_where_nothing_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "data", 3, shards=1, size=(16, 16))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out, why in (("/", "not empty"), ("..", "not empty"), (".", "the folder that you are in")):
        with pytest.raises(UsageError, match=why):
            prefix_view(tmp_path / "data", 2, Path(out))
    with pytest.raises(WorkFailed, match="File name too long; nothing was made"):
        prefix_view(tmp_path / "data", 2, tmp_path / ("n" * 300))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "here"]
