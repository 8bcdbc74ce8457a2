"""Where the ranks of a run meet, so that they can build their process groups.

    one machine, our launcher       a file in the attempt's folder (no port is open)
    several machines, ours          rank 0 takes a port that is free, keeps it, and writes its number into
                                    attempts/NNN/rendezvous.json; the others read it there
    torchrun, Kubernetes            MASTER_ADDR and MASTER_PORT, as they say

A port that is agreed on before it is taken may be another job's by then; one that is taken first cannot be.
"""

import json
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import psutil
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous as meet_by_environment

from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import write_json
from pipeline.launch.environment import MASTER_ADDRESS

_LOOK_S: Final = 0.05
_MANY: Final = 4096  # ranks that come at once


def meet(rank: int, ranks: int, rendezvous: str | None) -> dist.Store:
    """Joins the other ranks.

    Args:
        rendezvous: a file, not there yet, of this attempt's; None: where MASTER_ADDR and MASTER_PORT say.

    Raises:
        UsageError: nobody says where.
        WorkFailed: rank 0 did not come.
    """
    if rendezvous is not None:
        if MASTER_ADDRESS in os.environ:
            return meet_at(os.environ[MASTER_ADDRESS], Path(rendezvous), rank, ranks)
        # Not by a file:// URL: torch does not decode one, so a space in the path would never be found.
        return dist.FileStore(rendezvous, ranks)
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UsageError("RANK is set but MASTER_ADDR or MASTER_PORT is not: set both, or start with --nproc")
    store, _, _ = next(meet_by_environment("env://", rank, ranks))
    return store


def meet_at(address: str, file: Path, rank: int, ranks: int, patience: timedelta = default_pg_timeout) -> dist.Store:
    """Over TCP, at rank 0's address and at the port that it writes into `file`. Raises WorkFailed."""
    if interface := _interface_towards(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if rank == 0:
        listening, here = _listen(address)
        port = listening.getsockname()[1]
        # The descriptor is the store's from here on, and closed by it.
        store = dist.TCPStore(
            here,
            port,
            ranks,
            is_master=True,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        write_json(file, {"host": address, "port": port})
        return store
    host, port = _published(file, patience.total_seconds())
    return dist.TCPStore(host, port, ranks, is_master=False, timeout=patience, wait_for_workers=False)


def _interface_towards(address: str) -> str | None:
    """The network interface by which this machine reaches an address; None where nobody says.

    gloo would take the one that the machine's own name leads to, which on Debian is the loopback.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # of a datagram socket: nothing is sent
            ours = probe.getsockname()[0]
    except OSError:
        return None
    known = psutil.net_if_addrs().items()
    return next((name for name, addresses in known if any(each.address == ours for each in addresses)), None)


def _listen(address: str) -> tuple[socket.socket, str]:
    """At a free port, and by which name that is reached from here.

    At this address only; at all that this machine has where it is not one of them but a way to it, or where this
    machine calls itself by a name that means something else elsewhere (Debian's 127.0.1.1).
    """
    with suppress(OSError):
        family, _, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        if not ip_address(str(place[0]).partition("%")[0]).is_loopback or address == place[0]:
            listening = socket.socket(family, socket.SOCK_STREAM)
            try:
                listening.bind(place)
                listening.listen(_MANY)
                return listening, address
            except OSError:
                listening.close()
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=_MANY), "127.0.0.1"


def _published(file: Path, patience_s: float) -> tuple[str, int]:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_bytes())
            return str(told["host"]), int(told["port"])
        time.sleep(_LOOK_S)
    raise WorkFailed(f"rank 0 has not said within {patience_s:.0f} s where to meet: {file} is not there")
