"""A seeded sample of the fault matrices that `make soak` runs in full."""

import os

import pytest

from tests.soak import (
    checkpoint_kills,
    checkpoint_matrix,
    checkpoint_mutations,
    prep_kills,
    prep_sources,
    stop_signals,
    stream_cycles,
    stream_faults,
    stream_kills,
    verdicts,
)


@pytest.mark.parametrize(
    "trial",
    [
        {"seed": 102, "tasks": 2, "workers": 2, "source": "parquet", "kills": 3},
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


@pytest.mark.parametrize(
    "trial",
    [
        {"seed": 105, "world": 3, "workers": 1, "batch": 48, "other_batch": True, "rich": True, "kills": 2},
        {"seed": 106, "world": 2, "workers": 3, "batch": 48, "other_batch": False, "rich": True, "kills": 3},
    ],
    ids=lambda trial: f"{trial['world']} ranks, {trial['workers']} workers",
)
def test_killed_readers_go_on_with_the_same_batches(trial, tmp_path):
    assert stream_kills.run(trial, tmp_path)["faults"] == trial["kills"]


def test_killed_loaders_leave_nothing_behind(tmp_path):
    assert stream_cycles.run({"seed": 107, "place": "files", "workers": 2, "cycles": 3}, tmp_path)["met"]["shard"] > 0


@pytest.mark.parametrize(
    ("kind", "above"), [("corrupt", False), ("deleted", True)], ids=["corrupt, tolerated", "deleted, stopped"]
)
def test_unreadable_data_is_left_out_or_stops_the_run(kind, above, tmp_path):
    assert stream_faults.run({"seed": 108, "kind": kind, "above": above}, tmp_path)["holes"] > 0


@pytest.mark.parametrize("trial", checkpoint_matrix.sample(seed=109), ids=lambda t: f"into {t['into']}")
def test_a_checkpoint_goes_on_with_other_processes_and_another_stage(trial, tmp_path):
    """12 of the 256 pairs: each number of processes, and each stage, writes three and loads three."""
    assert checkpoint_matrix.run(trial, tmp_path)["faults"] == 3


def test_a_run_that_is_asked_to_stop_goes_on_as_if_nothing_had_happened(tmp_path):
    trial = {"seed": 110, "world": 2, "workers": 1, "launcher": False, "phases": ["data", "save"]}
    assert stop_signals.run(trial, tmp_path)["faults"] == 2


def test_damaged_checkpoints_are_found_and_the_one_before_is_taken(tmp_path):
    assert checkpoint_mutations.run({"seed": 109, "mutations": 50, "command": True}, tmp_path)["faults"] == 50


def test_runs_that_are_killed_while_they_save_or_load_end_in_the_same_weights(tmp_path):
    trial = {"seed": 111, "world": 2, "zero": "zero3", "kills": 6}
    assert checkpoint_kills.run(trial, tmp_path)["faults"] == 6


SAMPLE = (
    "exit 7, step",
    "signal SIGBUS, data",
    "allocate tensors, setup",
    "sleep 600, evaluate",
    "paused_rank, step",
)


@pytest.mark.parametrize("fault", SAMPLE)
def test_the_verdict_names_what_was_done(fault, tmp_path):
    """tests/slurm/test_train.py has those that take a cluster; test_hang.py a stopped rank, test_disk_and_numbers.py a
    full disk.
    """
    assert verdicts.run({"seed": 112, "fault": fault, "rank": 1}, tmp_path)["faults"] == 1
