"""Who a process is, as its launcher says."""

import os
from pathlib import Path

import pytest

from pipeline.dataset.errors import UsageError
from pipeline.launch.environment import RankEnvironment, attempt_told

pytestmark = pytest.mark.fast

TASK = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}
OURS = {"VITSTREAM_ATTEMPT": "3", "VITSTREAM_RENDEZVOUS": "/run/attempts/003/rendezvous.json"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (TASK, None),  # a shell in an allocation
        (TASK | OURS, (0, 1, 0)),  # our supervisor's only rank
        (TASK | {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, (5, 8, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, 0)),
        (TASK | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (1, 2, 1)),  # torchrun in an allocation
        (TASK | OURS | {"VITSTREAM_MASTER_ADDR": "node1", "RANK": "1", "WORLD_SIZE": "2"}, (0, 1, 0)),
    ],
)
def test_a_rank(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], place: tuple[int, ...] | None) -> None:
    monkeypatch.setattr(os, "environ", dict(environment))
    found = RankEnvironment.read()
    assert (found and (found.rank, found.world_size, found.local_rank)) == place
    assert attempt_told() == (Path("/run/attempts/003") if OURS.items() <= environment.items() else None)


@pytest.mark.parametrize(
    "wrong", [{"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, TASK | OURS | {"SLURM_PROCID": "1"}]
)
def test_no_such_rank(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]) -> None:
    monkeypatch.setattr(os, "environ", dict(wrong))
    with pytest.raises(UsageError, match="RANK"):
        RankEnvironment.read()
