"""Views: some of a dataset's samples, by links; whole or not there; nested; good for everything that a dataset is."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.common.keylists import contains, pack, read_key_list
from data_prep.common.links import link
from data_prep.views import keep_view, parse_count, prefix_view, subset_views
from pipeline.data.sample import Sample
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.index import ShardIndex, write_index, write_table
from pipeline.dataset.keys import key_sum, sample_key
from pipeline.dataset.manifest import File, read_manifest
from pipeline.dataset.row import IndexRow
from tests.datasets import make_dataset
from tests.reading import DatasetReader

pytestmark = pytest.mark.fast

SAMPLES = 50


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data", SAMPLES, shards=[20, 5, 25], size=(16, 16))
    return tmp_path / "data"


def keys_of(dataset: Path) -> list[str]:
    """What is really read, from the tars."""
    manifest = read_manifest(dataset)
    reader = DatasetReader(dataset, manifest)
    samples = [reader.read(number) for number in range(manifest.samples)]
    assert all(isinstance(sample, Sample) for sample in samples), samples
    return [sample.key for sample in samples]


def write_keys(path: Path, keys: list[str]) -> Path:
    pq.write_table(pa.table({"path": keys, "key": keys}), path)
    return path


@pytest.mark.parametrize(("count", "shards", "partial"), [(1, 1, True), (20, 1, False), (22, 2, True), (50, 3, False)])
def test_the_first_samples(data: Path, tmp_path: Path, count: int, shards: int, partial: bool) -> None:
    view = prefix_view(data, count, tmp_path / "view")
    assert keys_of(tmp_path / "view") == keys_of(data)[:count]
    manifest = read_manifest(tmp_path / "view")
    assert manifest == view.manifest and manifest.partial == partial and len(manifest.shards) == shards
    assert manifest.key_sum == key_sum(keys_of(data)[:count])
    files = sorted((tmp_path / "view/shards").iterdir())
    assert [path.is_symlink() for path in files if path.suffix == ".tar"] == [True] * shards
    assert sum(not path.is_symlink() for path in files) == partial  # one cut index
    assert list(manifest.files) == [File.of(tmp_path / "view", file.name) for file in manifest.files]
    assert (manifest.fingerprint == read_manifest(data).fingerprint) == (count == SAMPLES)


def test_subsets_are_nested_and_named_as_written(data: Path) -> None:
    made = subset_views(data, ["0.02", "0.01K", "50%", "30"])
    assert [path.relative_to(data).as_posix() for path in made] == [
        f"subsets/{n}" for n in ("0.02", "0.01K", "50%", "30")
    ]
    keys = [keys_of(path) for path in made]
    assert [len(k) for k in keys] == [1, 10, 25, 30]
    assert all(smaller == larger[: len(smaller)] for smaller, larger in pairwise(keys))
    assert subset_views(data, ["30"]) == [data / "subsets/30"]
    with pytest.raises(UsageError, match=r"--subsets 9M: 9,000,000 samples; the dataset has 50"):
        subset_views(data, ["10", "9M"])
    assert not (data / "subsets/10").exists()


def test_a_dataset_can_be_moved_with_its_subsets(data: Path, tmp_path: Path) -> None:
    subset_views(data, ["30"])
    data.rename(tmp_path / "elsewhere")
    assert len(keys_of(tmp_path / "elsewhere/subsets/30")) == 30


@pytest.mark.parametrize("suffix", ["parquet", "csv", "txt"])
def test_a_keep_list(data: Path, tmp_path: Path, suffix: str) -> None:
    keys = keys_of(data)
    kept = [keys[n] for n in (3, 7, 19, 45)] + keys[20:25]  # none but the second shard as a whole
    listed = [*reversed(kept), kept[0], "0" * 24]
    path = tmp_path / f"keep.{suffix}"
    if suffix == "parquet":
        write_keys(path, listed)
    elif suffix == "csv":
        path.write_text("size,key\n" + "".join(f'7,"{key}"\n' for key in listed))
    else:
        path.write_text("key\n" + "\r\n".join(listed))
    view = keep_view(data, path, tmp_path / "view")
    assert keys_of(tmp_path / "view") == [key for key in keys if key in kept]
    assert view.unknown == 1 and view.manifest.partial and len(view.manifest.shards) == 3
    assert [(tmp_path / f"view/shards/shard-00000{n}.arrow").is_symlink() for n in range(3)] == [False, True, False]


def test_shards_of_which_nothing_is_kept_are_left_out(data: Path, tmp_path: Path) -> None:
    keep_view(data, write_keys(tmp_path / "keep", keys_of(data)[20:25]), tmp_path / "view")
    manifest = read_manifest(tmp_path / "view")
    assert [shard.name for shard in manifest.shards] == ["shard-000001.tar"] and not manifest.partial
    assert len(list((tmp_path / "view/shards").iterdir())) == 2


def test_a_view_of_a_view(data: Path, tmp_path: Path) -> None:
    keys = keys_of(data)
    keep_view(data, write_keys(tmp_path / "keep", keys[10:40]), tmp_path / "kept")
    prefix_view(tmp_path / "kept", 12, tmp_path / "both")
    assert keys_of(tmp_path / "both") == keys[10:22]
    steps = read_manifest(tmp_path / "both").asked["views"]
    assert [sorted(step) for step in steps] == [["keep", "listed", "of"], ["first", "of"]]


def test_again_is_nothing_and_another_is_refused(data: Path, tmp_path: Path) -> None:
    assert not prefix_view(data, 22, tmp_path / "view").was_complete
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "view").rglob("*")}
    assert prefix_view(data, 22, tmp_path / "view").was_complete
    assert before == {path: path.lstat().st_mtime_ns for path in (tmp_path / "view").rglob("*")}
    with pytest.raises(UsageError, match="holds another dataset"):
        prefix_view(data, 23, tmp_path / "view")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").touch()
    with pytest.raises(UsageError, match="not empty"):
        prefix_view(data, 22, tmp_path / "full")


def test_what_was_left_by_one_that_was_killed_is_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / ".view.aside/shards").mkdir(parents=True)
    (tmp_path / ".view.aside/shards/old.tar").touch()
    prefix_view(data, 22, tmp_path / "view")
    assert len(keys_of(tmp_path / "view")) == 22 and len(list((tmp_path / "view/shards").iterdir())) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"data", "view"}


def test_lists_that_are_none(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    with pytest.raises(UsageError, match="No such file"):
        keep_view(data, path, tmp_path / "view")
    path.write_text("cat.jpg\n")
    with pytest.raises(UsageError, match=r"'cat\.jpg' is no key"):
        keep_view(data, path, tmp_path / "view")
    path.write_text("f" * 24)
    with pytest.raises(UsageError, match=r"keep\.txt: names 1 keys, none of them"):
        keep_view(data, path, tmp_path / "view")
    path.write_text("\ufeffkey\n\n")
    with pytest.raises(UsageError, match=r"keep\.txt: is empty"):
        keep_view(data, path, tmp_path / "view")
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(UsageError, match="cannot be read as a list of keys"):
        keep_view(data, path, tmp_path / "view")
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(UsageError, match="has no column key"):
        keep_view(data, path, tmp_path / "view")
    pq.write_table(pa.table({"key": ["0" * 24, None]}), path)
    with pytest.raises(UsageError, match="an empty row"):
        keep_view(data, path, tmp_path / "view")
    assert {p.name for p in tmp_path.iterdir()} == {"data", "keep.txt"}


def test_a_full_disk_or_a_damaged_index_leaves_nothing(data: Path, tmp_path: Path) -> None:
    (data / "shards/shard-000001.arrow").write_bytes(b"")
    with pytest.raises(WorkFailed, match="no readable index"):
        keep_view(data, write_keys(tmp_path / "keep", keys_of_index(data, 0)), tmp_path / "view")
    with pytest.raises(WorkFailed, match="nothing was made"):
        prefix_view(data, 3, tmp_path / "keep/view")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "keep"}


def keys_of_index(data: Path, number: int) -> list[str]:
    return ShardIndex(data / f"shards/shard-{number:06d}.arrow").keys()


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("1000", 1000), ("1.0", 1000), ("0.5", 500), ("0.25%", 2), ("10%", 100), ("0.1K", 100), (" 1k ", 1000)],
)
def test_counts_as_users_write_them(text: str, count: int) -> None:
    assert parse_count(text, 1000, "--first") == count


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "1001", "1M", "-1", "x", "1e3", "101%", "0.0001", "10 %", "1.5", "9" * 20]
)
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--first"):
        parse_count(text, 1000, "--first")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=40), st.lists(st.integers(0, 60), max_size=40))
def test_packed_keys_are_sets_of_keys(listed: list[int], asked: list[int]) -> None:
    every = [f"{number * 0x0100000000000000000001:024x}" for number in range(61)]  # with zeros at both ends
    packed = np.unique(pack(pa.array([every[n] for n in listed], pa.string())))
    found = contains(packed, pack(pa.array([every[n] for n in asked], pa.string())))
    assert found.tolist() == [n in listed for n in asked]


def test_long_lists_are_read_in_parts(tmp_path: Path) -> None:
    keys = [sample_key(str(number)) for number in range(3000)]
    (tmp_path / "keys").write_text("\n".join(keys))
    assert len(read_key_list(tmp_path / "keys", "--keep")) == 3000


def test_cut_indexes_are_those_that_rows_give(tmp_path: Path) -> None:
    """To the byte, so that verify --repair can make them again."""
    rows = [IndexRow(f"{n:024x}", n * 512, n, tuple(range(n % 4)), n + 1, n + 2) for n in range(3000)]
    write_index(tmp_path / "all", rows)
    data = tmp_path / "data"
    for positions in ([0, 5, 2999], list(range(1500)), [*range(0, 3000, 2)]):
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        write_table(data / "table", ShardIndex(tmp_path / "all").take(np.array(positions)))
        write_index(data / "rows", [rows[n] for n in positions])
        assert (data / "table").read_bytes() == (data / "rows").read_bytes()


def test_links_are_relative_within_a_tree_and_absolute_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    link(tmp_path / "data.tar", tmp_path / "a/near")
    link(Path("/etc/hostname"), tmp_path / "a/far")
    link(Path("/etc/hostname"), tmp_path / "a/near")  # again, to something else
    link(tmp_path / "data.tar", tmp_path / "a/far")
    link(tmp_path / "data.tar", tmp_path / "a/far")
    assert [str((tmp_path / "a" / name).readlink()) for name in ("near", "far")] == ["/etc/hostname", "../data.tar"]
    assert len(list((tmp_path / "a").iterdir())) == 2
