"""Ranks of several machines meet at a port that rank 0 has taken: real processes, and no port is agreed on before."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import rendezvous
from pipeline.dataset.errors import WorkFailed
from pipeline.rendezvous import _listen, meet_at
from tests.runs import CHECKOUT

RANK = """
import os, sys
from pipeline.distributed import World
from pipeline.launch.environment import RankEnvironment
environment = RankEnvironment.read()
world = World(environment, os.environ["VITSTREAM_RENDEZVOUS"])
print(world.all_gather([sys.argv[1], world.rank]))
world.barrier()
world.close()
"""


def start_world(folder: Path, name: str, ranks: int, address: str) -> list[subprocess.Popen]:
    """As srun starts them, under our supervisor."""
    folder.mkdir()
    ours = {"VITSTREAM_ATTEMPT": "0", "VITSTREAM_RENDEZVOUS": str(folder / "rendezvous.json")}
    ours |= {"VITSTREAM_MASTER_ADDR": address, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    ours |= {"SLURM_NTASKS": str(ranks), "GLOO_SOCKET_IFNAME": "lo", "RANK": "7"}  # the last a shell's
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, name],
            env=os.environ | ours | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def test_two_worlds_that_start_at_once_do_not_meet(tmp_path: Path) -> None:
    worlds = {
        "a": start_world(tmp_path / "a b", "a", 2, "127.0.0.1"),
        "b": start_world(tmp_path / "c", "b", 2, "localhost"),
        "alone": start_world(tmp_path / "d", "alone", 1, "127.0.0.1"),
    }
    for name, ranks in worlds.items():
        for rank in ranks:
            said, _ = rank.communicate(timeout=120)
            assert rank.returncode == 0
            assert said.strip() == str([[name, each] for each in range(len(ranks))])


@pytest.mark.parametrize(
    ("address", "interface", "reached_by"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("localhost", "::", "127.0.0.1"),  # a name that every machine has
        ("192.0.2.1", "::", "127.0.0.1"),  # not ours
        ("nowhere.invalid", "::", "127.0.0.1"),
    ],
)
def test_where_rank_0_listens(address: str, interface: str, reached_by: str) -> None:
    listening, host = _listen(address)
    with listening:
        assert host == reached_by
        assert listening.getsockname()[0] in (interface, "0.0.0.0") and listening.getsockname()[1] > 0


def test_a_rank_0_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    (tmp_path / "rendezvous.json").write_text('{"host": "x"')
    with pytest.raises(WorkFailed, match="rank 0 has not said"):
        meet_at("127.0.0.1", tmp_path / "rendezvous.json", 1, 2, timedelta(seconds=0.2))


def test_gloo_takes_the_interface_that_leads_to_rank_0():
    assert rendezvous._interface_towards("127.0.0.1") == "lo"
    assert rendezvous._interface_towards("no such host.invalid") is None
