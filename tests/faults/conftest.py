"""One dataset and one uninterrupted run, which every fault's outcome is compared with."""

import pytest

from tests.datasets import make_dataset
from tests.runs import steps_of, train, write_run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """(train, val) DATASET folders: 352 and 101 samples."""
    root = tmp_path_factory.mktemp("data")
    make_dataset(root / "train", 352, seed=0)
    make_dataset(root / "val", 101, seed=1)
    return root / "train", root / "val"


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory):
    """step -> metrics of a run on 2 processes that nothing happened to."""
    run = write_run(
        tmp_path_factory.mktemp("undisturbed") / "run.yaml", *data, loader={"workers": 1, "pixel_digest": True}
    )
    train(run, 2)
    return steps_of(run)
