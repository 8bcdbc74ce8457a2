"""The tests' cluster with SLURM's accounting: slurmdbd, and a database of its own that nobody else sees."""

import os
import shutil
import socket
import subprocess

from tests.slurm import cluster
from tests.slurm.cluster import PATH, Cluster, _free_ports

_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
_DAEMON = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={root}/slurmdbd.pid
LogFile={root}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm
"""
_CLIENTS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={root}/munge.sock
"""


def why_not() -> str | None:
    """Why there can be no accounting here."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"no {missing[0]} here; `make slurm` installs it, as root on Debian" if missing else cluster.why_not()


class AccountedCluster(Cluster):
    """`sacct` works on it."""

    def _configure(self) -> None:
        super()._configure()
        (port,) = _free_ports(1)
        settings = {"root": self.root, "host": socket.gethostname(), "port": port}
        with (self.root / "slurm.conf").open("a") as file:
            file.write(_CLIENTS.format(**settings))
        daemon = self.root / "slurmdbd.conf"
        daemon.write_text(_DAEMON.format(**settings))
        daemon.chmod(0o600)  # or slurmdbd refuses it

    def _start_before_the_controller(self) -> None:
        """Without it the controller would not start."""
        database, here = self.root / "database", self.root / "database.sock"
        self.environment |= {"MYSQL_UNIX_PORT": str(here)}
        make = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={database}", "--skip-test-db"]
        make += ["--auth-root-authentication-method=normal"]
        subprocess.run(make, env=os.environ | {"PATH": PATH}, check=True, capture_output=True, timeout=120)
        options = [f"--datadir={database}", f"--socket={here}", "--skip-networking", "--user=root"]
        self._start("mariadbd", "mariadbd", "--no-defaults", *options, f"--pid-file={self.root}/mariadbd.pid")
        self._wait(here.exists, 60, "the database")
        self._start("slurmdbd", "slurmdbd", "-D")
        self._wait(self._accounts, 60, "slurmdbd")

    def _accounts(self) -> bool:
        """Whether it answers, and knows this cluster."""
        try:
            self.run("sacctmgr", "--immediate", "add", "cluster", "tests")
            return True
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return "already exists" in str(error)
