"""A SLURM of several nodes on this machine, each a network namespace with a host name and an address of its own.

Nothing of the host is changed: every daemon and client runs in a mount namespace where /etc/hosts, /etc/resolv.conf and
/run/munge are the cluster's. Root only. The configuration is of SLURM 22.05 and newer.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]

HOST_PACKAGES: Final = ("iproute2", "util-linux")
HOST_PROGRAMS: Final = ("ip", "nsenter", "unshare")
PACKAGES: Final = (*HOST_PACKAGES, "slurm-wlm", "munge")
PROGRAMS: Final = (*HOST_PROGRAMS, "sbatch", "slurmctld", "slurmd", "munged")

CONTROLLER: Final = "ctl"
FINAL_STATES: Final = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)

SLURM_CONF: Final = """\
ClusterName=test
SlurmctldHost={controller}({subnet}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
KillWait=3
MessageTimeout=5
SlurmdTimeout=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
{nodes}
PartitionName=main Nodes={names} Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes={names} PriorityTier=10 PreemptMode=OFF State=UP
"""


def why_not(slurm: bool = True) -> str | None:
    """Why there can be no cluster (or only several hosts) here; None if there can. Installs what it is made of, where
    that is allowed."""
    if os.geteuid() != 0:
        return "a SLURM in network namespaces needs root"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True)
    if tried.returncode:
        return "this root may not make network namespaces"
    programs, packages = (PROGRAMS, PACKAGES) if slurm else (HOST_PROGRAMS, HOST_PACKAGES)
    if missing := _missing(programs):
        install(*packages)
        missing = _missing(programs)
    return f"{', '.join(missing)} cannot be had: apt-get install {' '.join(packages)}" if missing else None


def _missing(programs: Sequence[str]) -> list[str]:
    return [program for program in programs if shutil.which(program) is None]


@functools.cache
def install(*packages: str) -> bool:
    """With apt, as root; whether it worked."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-y"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt, "update"], env=environment, capture_output=True, timeout=240)
    done = subprocess.run(
        [*apt, "install", "--no-install-recommends", *packages], env=environment, capture_output=True, timeout=240
    )
    return done.returncode == 0


@dataclass
class Hosts:
    """Network namespaces on one bridge: `{subnet}.1` is the controller's, `.11`, `.12`, ... the nodes'.

    Args:
        folder: theirs alone; short, as sockets lie in it.
    """

    folder: Path
    names: Sequence[str] = ("node1", "node2")
    subnet: str = "10.77.0"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{self.subnet}.1 {CONTROLLER}", *(f"{self.address(name)} {name}" for name in self.names)]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        (self.folder / "resolv.conf").write_text("")

    def address(self, name: str) -> str:
        return f"{self.subnet}.{11 + self.names.index(name)}"

    def _namespace(self, name: str) -> str:
        return f"{self.subnet.replace('.', '')}{name}"

    def start(self) -> None:
        self.stop()
        bridge = "br0"
        for name in (CONTROLLER, *self.names):
            _run("ip", "netns", "add", self._namespace(name))
            self._ip(name, "link", "set", "lo", "up")
        self._ip(CONTROLLER, "link", "add", bridge, "type", "bridge")
        self._ip(CONTROLLER, "addr", "add", f"{self.subnet}.1/24", "dev", bridge)
        self._ip(CONTROLLER, "link", "set", bridge, "up")
        for name in self.names:
            self._ip(CONTROLLER, "link", "add", name, "type", "veth", "peer", "eth0", "netns", self._namespace(name))
            self._ip(CONTROLLER, "link", "set", name, "master", bridge, "up")
            self._ip(name, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            self._ip(name, "link", "set", "eth0", "up")

    def stop(self) -> None:
        for name in (CONTROLLER, *self.names):
            subprocess.run(["ip", "netns", "delete", self._namespace(name)], capture_output=True)

    def _ip(self, name: str, *arguments: str) -> None:
        _run("ip", "-n", self._namespace(name), *arguments)

    def command(self, name: str, *words: str) -> list[str]:
        """The command line that runs `words` on a host."""
        binds = {"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf"}
        mounts = "".join(f"mount --bind {self.folder}/{file} {target}; " for file, target in binds.items())
        script = f'hostname {name}; {mounts}exec "$@"'
        inside = ["nsenter", f"--net=/run/netns/{self._namespace(name)}", "unshare", "--mount", "--uts"]
        return [*inside, "bash", "-c", script, "-", *words]


@dataclass
class Cluster:
    """A running SLURM. Its jobs see the environment that `environment` is."""

    folder: Path
    names: Sequence[str] = ("node1", "node2")
    gpus: int = 2
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosts = Hosts(self.folder, self.names)

    def start(self) -> None:
        folder = self.folder
        self.hosts.start()
        for name in ("state", *(f"spool.{node}" for node in self.names)):
            (folder / name).mkdir(exist_ok=True)
        self._write_configuration()
        _run("dd", "if=/dev/urandom", f"of={folder}/munge.key", "bs=1024", "count=1")
        os.chmod(folder / "munge.key", 0o400)
        munge = [
            f"--{key}={folder}/munge.{key.split('-')[0]}" for key in ("key-file", "pid-file", "log-file", "seed-file")
        ]
        _run("munged", "--force", f"--socket={folder}/munge.socket", *munge)
        self._daemon(CONTROLLER, "slurmctld", "-f", f"{folder}/slurm.conf", "-c")
        for node in self.names:
            self.start_node(node)
        self.until(lambda: self.client("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(self.names)))

    def _write_configuration(self) -> None:
        nodes = "\n".join(
            f"NodeName={name} NodeAddr={self.hosts.address(name)} CPUs=8 RealMemory=64000 Gres=gpu:{self.gpus}"
            for name in self.names
        )
        (self.folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                controller=CONTROLLER,
                subnet=self.hosts.subnet,
                folder=self.folder,
                nodes=nodes,
                names=",".join(self.names),
            )
        )
        for gpu in range(self.gpus):  # files that stand for devices: SLURM wants to see some
            if not (self.folder / f"nvidia{gpu}").exists():
                os.mknod(self.folder / f"nvidia{gpu}", 0o600 | 0o020000, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/nvidia[0-{self.gpus - 1}]\n")

    def _daemon(self, host: str, *words: str) -> None:
        _run(*self.hosts.command(host, *words), env=self._variables())

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-f", f"{self.folder}/slurm.conf", "-N", node)

    def stop(self) -> None:
        for name in ("slurmctld.pid", *(f"slurmd.{node}.pid" for node in self.names), "munge.pid"):
            self._kill(name, signal.SIGTERM)
        for node in self.names:
            self.kill_node(node)
        self.hosts.stop()

    def _kill(self, pid_file: str, number: int) -> None:
        path = self.folder / pid_file
        if path.exists():
            try:
                os.kill(int(path.read_text()), number)
            except ProcessLookupError:
                return

    def kill_node(self, node: str) -> None:
        """As when its power is gone: every process on it is killed, its daemon first."""
        for pid in self.processes(node):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        (self.folder / f"slurmd.{node}.pid").unlink(missing_ok=True)

    def processes(self, node: str) -> list[int]:
        """All processes on a node."""
        found = subprocess.run(["ip", "netns", "pids", self.hosts._namespace(node)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def _has_steps(self, job: str) -> bool:
        """Whether a script or step of a job is still on a node."""
        for pid in (pid for name in self.names for pid in self.processes(name)):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:  # it left meanwhile
                continue
            if title.startswith(f"slurmstepd: [{job}."):
                return True
        return False

    def _variables(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "SLURM_CONF": f"{self.folder}/slurm.conf"}

    def client(self, *words: str, check: bool = True, timeout: float = 120) -> str:
        """What a client program (or a script that calls some) prints, on the controller's host."""
        done = subprocess.run(
            self.hosts.command(CONTROLLER, *words),
            env=self._variables(),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=REPOSITORY,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def job(self, number: int | str) -> dict[str, str]:
        """What `scontrol show job` says."""
        text = self.client("scontrol", "--oneliner", "show", "job", str(number))
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def state(self, number: int | str) -> str:
        return self.job(number)["JobState"]

    def wait(self, number: int | str, timeout: float = 400) -> str:
        """The final state of a job; what a requeue makes wait (for two minutes) is let go as soon as its last attempt
        has left the nodes. Before, the last word of that attempt would be taken for the next one's."""
        deadline = time.monotonic() + timeout
        while (job := self.job(number))["JobState"] not in FINAL_STATES:
            assert time.monotonic() < deadline, f"job {number} does not end: {job}"
            waits = job["JobState"] == "PENDING" and job["Reason"] in ("BeginTime", "None")
            if waits and not self._has_steps(job["JobId"]):
                self.client("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
            time.sleep(0.2)
        return job["JobState"]

    def until(self, condition: Callable[[], bool], timeout: float = 240) -> None:
        """Until `condition()` holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.1)


def _run(*words: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
