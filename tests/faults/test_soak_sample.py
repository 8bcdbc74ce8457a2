"""A seeded sample of the fault matrices that `make soak` runs in full."""

import os

import pytest

from tests.soak import prep_kills, prep_sources


@pytest.mark.parametrize(
    "trial",
    [
        {"seed": 101, "tasks": 1, "workers": 2, "source": "folder", "kills": 2},
        {"seed": 102, "tasks": 2, "workers": 1, "source": "parquet", "kills": 3},
        {"seed": 103, "tasks": 7, "workers": 1, "source": "folder", "kills": 3},
    ],
    ids=lambda trial: f"{trial['tasks']} tasks, {trial['source']}",
)
def test_killed_tasks_make_the_same_files(trial, tmp_path):
    assert prep_kills.run(trial, tmp_path)["faults"] >= trial["kills"]


@pytest.mark.parametrize("kind", prep_sources.KINDS)
def test_failing_sources_and_disks_end_in_the_same_files(kind, tmp_path):
    if kind == "disk" and os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    assert prep_sources.run({"seed": 104, "kind": kind}, tmp_path)["faults"] == 1
