"""A real SLURM cluster on this machine: slurmctld, munged and a slurmd per node, all of them this process's children.

Each node has a host name, an address and a process namespace of its own, so `kill_node` takes a node's processes with
it, as a power cut does. Whatever happens to the tests, nothing outlives them: the kernel kills what we started.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.dataset.processes import die_with

PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged", "unshare")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
# cred_expire: how long a requeued job is held, and a second; the default is 120. Its least value is 5.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=3
SlurmdTimeout=4
SlurmctldTimeout=10
MinJobAge=600
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.{at} Port={port} CPUs=4 RealMemory=8000 State=UNKNOWN\n"


def why_not() -> str | None:
    """Why no cluster can be started here."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"no {missing[0]} here; `make slurm` installs Debian's slurm-wlm and munge, as root"
    if os.getuid() != 0:
        return "a cluster of several nodes on one machine needs root"
    if subprocess.run(["unshare", "--uts", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode:
        return "no new namespaces here (unshare fails)"
    return None


class Task(NamedTuple):
    """One task of an array, or a whole job."""

    number: str
    state: str
    restarts: int


class Cluster:
    """A cluster of node1, node2, ...; a context, at whose end it is gone."""

    def __init__(self, root: Path, nodes: int = 2) -> None:
        self.root, self.nodes = root, nodes
        self.environment = {"SLURM_CONF": str(root / "slurm.conf"), "PATH": PATH}
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Cluster":
        root, ports = self.root, _free_ports(self.nodes + 1)
        (root / "state").mkdir(parents=True)
        nodes = [NODE.format(name=f"node{n}", at=10 + n, port=ports[n]) for n in range(1, self.nodes + 1)]
        configuration = CONFIGURATION.format(host=socket.gethostname(), port=ports[0], root=root)
        (root / "slurm.conf").write_text(configuration.replace("PartitionName", "".join(nodes) + "PartitionName"))
        (root / "cgroup.conf").touch()
        (root / "munge.key").write_bytes(os.urandom(256))
        (root / "munge.key").chmod(0o600)
        munge = [f"--{name}={root}/munge.{end}" for name, end in (("socket", "sock"), ("key-file", "key"))]
        munge += [f"--{name}={root}/munge.{end}" for name, end in (("pid-file", "pid"), ("seed-file", "seed"))]
        try:
            self._start("munged", "munged", "--foreground", "--force", *munge)  # force: pytest's folders are private
            self._wait(lambda: (root / "munge.sock").exists(), 10, "munged")
            self._start("slurmctld", "slurmctld", "-D")
            for number in range(1, self.nodes + 1):
                self.start_node(f"node{number}")
            self._wait(lambda: self.idle_nodes() == self.nodes, 30, "the nodes")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kills every daemon; a node's processes die with it."""
        for process in self._daemons.values():
            process.kill()
        for process in self._daemons.values():
            process.wait()

    def start_node(self, name: str) -> None:
        life = 'hostname "$1"; mkdir -p "$2"; slurmd -D -N "$1" & wait'
        namespaces = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._start(name, *namespaces, "sh", "-c", life, "sh", name, str(self.root / f"spool-{name}"))

    def kill_node(self, name: str) -> None:
        """The power cut: slurmd and every process of every job on it, at once.

        The controller is told, since it takes its time to find out.
        """
        self._daemons[name].kill()
        self._daemons[name].wait()
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=power")

    def run(self, *command: object) -> str:
        """What one of SLURM's commands prints; its failure is an error."""
        done = subprocess.run([*map(str, command)], env=os.environ | self.environment, capture_output=True, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.decode(errors="replace")

    def idle_nodes(self) -> int:
        try:
            return sum(map(int, self.run("sinfo", "--noheader", "--states=idle", "--format=%D").split()))
        except (AssertionError, subprocess.TimeoutExpired):  # not up yet
            return 0

    def tasks(self, job: int) -> list[Task]:
        """All tasks of a job, in order; one, where it is no array. Only those of the last ten minutes are known."""
        columns = ",".join(f"{name}:20" for name in ("JobArrayID", "ArrayTaskID", "State", "RestartCnt"))
        printed = self.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", f"--Format={columns}")
        return sorted(
            Task(number, state, int(restarts)) for _, number, state, restarts in map(str.split, printed.splitlines())
        )

    def wait_for(self, *jobs: int, seconds: float = 60) -> list[str]:
        """Waits for the end of these jobs, of every task. Returns their states."""
        under_way = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING")

        def states() -> list[str]:
            return [task.state for job in jobs for task in self.tasks(job)]

        self._wait(lambda: not set(states()) & set(under_way), seconds, f"jobs {jobs}")
        return states()

    def _start(self, name: str, *command: str) -> None:
        us = os.getpid()
        with (self.root / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with(us),
            )

    def _wait(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                logs = [f"{path.name}: {path.read_text()[-600:]}" for path in sorted(self.root.glob("*.log"))]
                raise TimeoutError("\n".join([f"{what}: not done within {seconds} s", *logs]))
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
