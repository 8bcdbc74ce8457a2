"""A real SLURM cluster on this machine: slurmctld, munged and a slurmd per node, all of them this process's children.

Each node has a host name, an address and a process namespace of its own, so `kill_node` takes a node's processes with
it, as a power cut does. A job in the partition `high` takes the nodes of those in `main`. Whatever happens to the
tests, nothing outlives them: the kernel kills what we started.
"""

import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.dataset.processes import die_with

PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged", "unshare")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
# cred_expire: how long a requeued job is held, and a second; the default is 120. Its least value is 5.
# SlurmdTimeout, MessageTimeout: with these a dead node is found to be one within 7 to 15 s, instead of minutes.
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
MessageTimeout=5
SlurmctldTimeout=10
MinJobAge=600
DefMemPerCPU=200
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode={preempt}
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace_s} MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr={address} Port={port} CPUs={cpus} RealMemory=8000 {gres}"
PLAIN_USER = "nobody"


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

    def __init__(
        self,
        root: Path,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 0,
        preempt: Literal["CANCEL", "REQUEUE"] = "CANCEL",
        grace_s: int = 0,
    ) -> None:
        """Describes it; `with` starts it.

        Args:
            root: a folder, not there yet, of its files. Its path has to be short, and open to a plain user's jobs.
            nodes: how many.
            cpus: of each node, whatever this machine has.
            gpus: of each node: devices that a job can ask for and is given, and that compute nothing.
            preempt: what becomes of a job in `main` whose nodes one in `high` takes.
            grace_s: that it is given, once told.
        """
        self.root, self.gpus = root, gpus
        self.nodes = {f"node{n}": f"127.0.0.{10 + n}" for n in range(1, nodes + 1)}
        self.environment = {"SLURM_CONF": str(root / "slurm.conf"), "PATH": PATH}
        self._settings = {"preempt": preempt, "grace_s": grace_s}
        self._cpus = cpus
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Cluster":
        root = self.root
        (root / "state").mkdir(parents=True)
        root.chmod(0o755)
        self._configure()
        (root / "munge.key").write_bytes(os.urandom(256))
        (root / "munge.key").chmod(0o600)
        munge = [f"--{name}={root}/munge.{end}" for name, end in (("socket", "sock"), ("key-file", "key"))]
        munge += [f"--{name}={root}/munge.{end}" for name, end in (("pid-file", "pid"), ("seed-file", "seed"))]
        try:
            self._start("munged", "munged", "--foreground", "--force", *munge)  # force: pytest's folders are private
            self._wait(lambda: (root / "munge.sock").exists(), 10, "munged")
            self._start_before_the_controller()
            self._start("slurmctld", "slurmctld", "-D")
            for name in self.nodes:
                self.start_node(name)
            self.wait_for_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_before_the_controller(self) -> None:
        """Nothing here: accounting, where there is some (accounting.py)."""

    def _configure(self) -> None:
        """slurm.conf, gres.conf, and what the nodes take for /etc/hosts."""
        root, host = self.root, socket.gethostname()
        here, *ports = _free_ports(len(self.nodes) + 1)
        gres = f"Gres=gpu:{self.gpus}" if self.gpus else ""
        nodes = [
            NODE.format(name=name, address=address, port=port, cpus=self._cpus, gres=gres)
            for (name, address), port in zip(self.nodes.items(), ports, strict=True)
        ]
        settings = self._settings | {"host": host, "port": here, "root": root, "nodes": "\n".join(nodes)}
        (root / "slurm.conf").write_text(CONFIGURATION.format(**settings))
        (root / "cgroup.conf").touch()
        known = [f"{address} {name}\n" for name, address in self.nodes.items()]
        (root / "hosts").write_text("".join([f"127.0.0.1 localhost\n127.0.0.1 {host}\n", *known]))
        for number in range(self.gpus):  # of the kind of /dev/null: what is no device, a job does not get
            os.mknod(root / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        devices = f"Name=gpu File={root}/gpu[0-{self.gpus - 1}]\n" if self.gpus else ""
        (root / "gres.conf").write_text("".join(f"NodeName={name} {devices}" for name in self.nodes if devices))

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kills every daemon; a node's processes die with it."""
        for process in self._daemons.values():
            process.kill()
        for process in self._daemons.values():
            process.wait()

    def start_node(self, name: str) -> None:
        """Also one that was killed: it comes back by itself, as one that was switched on again."""
        life = 'mount --bind "$3" /etc/hosts; hostname "$1"; mkdir -p "$2"; slurmd -D -N "$1" & wait'
        namespaces = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        files = (str(self.root / f"spool-{name}"), str(self.root / "hosts"))
        self._start(name, *namespaces, "sh", "-c", life, "sh", name, *files)

    def kill_node(self, name: str, told: bool = True) -> None:
        """The power cut: slurmd and every process of every job on it, at once.

        Args:
            name: of the node.
            told: the controller hears of it at once, instead of finding out by itself, in 7 to 15 s.
        """
        self._daemons[name].kill()
        self._daemons[name].wait()
        if told:
            self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=power")

    def wait_for_nodes(self, seconds: float = 30) -> None:
        """Until all are up and without a job."""
        self._wait(lambda: self.idle_nodes() == len(self.nodes), seconds, "the nodes")

    def wait_for_death(self, name: str, seconds: float = 60) -> None:
        """Until the controller has found out."""
        self._wait(lambda: "DOWN" in self.run("scontrol", "show", "node", name), seconds, f"the death of {name}")

    def run(self, *command: object, user: str | None = None) -> str:
        """What one of SLURM's commands prints; its failure is an error."""
        words = [*(as_user(user) if user else ()), *map(str, command)]
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.decode(errors="replace")

    def idle_nodes(self) -> int:
        try:
            printed = self.run("sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D %T").split()
        except (AssertionError, subprocess.TimeoutExpired):  # not up yet
            return 0
        return sum(int(n) for n, state in zip(printed[::2], printed[1::2], strict=True) if state == "idle")

    def job(self, job: int) -> dict[str, str]:
        """What scontrol knows of a job, for ten minutes after its end."""
        words = self.run("scontrol", "show", "job", "-o", job).split()
        return {name: value for name, _, value in (word.partition("=") for word in words)}

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


def as_user(name: str) -> list[str]:
    """Words before a command that make it this user's; a shell in between, since setpriv itself may go anywhere."""
    user = ["setpriv", f"--reuid={name}", f"--regid={pwd.getpwnam(name).pw_gid}", "--clear-groups"]
    return [*user, "sh", "-c", 'exec "$@"', "sh"]


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to connections: a node's is still free when it is started again."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            each = socket.socket()
            try:
                each.bind(("", random.randrange(20_000, 32_000)))
                sockets.append(each)
            except OSError:
                each.close()
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
