"""A real Slurm on this machine, for tests and for trying profiles: a controller and a few virtual nodes in one private folder.

From a shell, to develop or to walk the newcomer's path::

    python tests/slurm/controller.py --hold            # in one terminal; Ctrl-C ends it and its jobs
    export SLURM_CONF=/tmp/slurm-.../slurm.conf       # in another: the line that the first one printed
    sinfo; python -m harness.sweep sweeps/quickstart.yaml --on slurm:./profile.yaml

From Python::

    with Controller(nodes=2) as slurm:
        subprocess.run(["sbatch", "job.sh"], env={**os.environ, **slurm.environment})

It needs the Debian or Ubuntu packages slurm-wlm and munge (their slurmd may run several times on one host) and nothing that
runs: munge, slurmctld and a slurmd for each node are children of this process, with keys, sockets, state and logs under one
folder of mode 0700. What one machine cannot show: networks, file systems between nodes, limits of memory and of processors.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import processes

INSTALL = "Debian, Ubuntu: apt-get install --no-install-recommends slurm-wlm munge"
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
OVER = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

CONFIGURATION = """\
ClusterName=dpsweep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s).
AuthInfo=socket={folder}/munge.socket,cred_expire=5
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
# linuxproc follows parents and needs no cgroups, so it runs anywhere. It is also the harder case: a process that left its
# parent survives its job, where proctrack/cgroup of a production cluster would end it.
ProctrackType=proctrack/linuxproc
# The virtual nodes claim more processors than there are, so no task can be bound to its own.
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=CORE
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=300
UnkillableStepTimeout=60
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Without this a preempted job gets SIGTERM alone; with it, the signal of its --signal, which is what submitit listens to.
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class ControllerError(RuntimeError):
    """Slurm did not start, or did not come to a state in time; the message ends with what its logs say."""


def missing() -> str | None:
    """What keeps Slurm from running here, as one sentence with what to type; None if nothing does."""
    absent = [name for name in (*DAEMONS, *CLIENTS) if _binary(name) is None]
    return f"no {', '.join(absent)} on this machine ({INSTALL})" if absent else None


class Controller:
    """slurmctld and `nodes` virtual nodes n1, n2, ... of 4 processors, 8 GB and 2 fake GPUs (gpu:fake) each.

    Partition `main` (the default) is preempted by `urgent`: a preempted job gets the signal that its --signal names, and is
    requeued `grace` seconds later. Nothing is accounted: sacct fails, squeue and scontrol know a job for five minutes after it.
    """

    def __init__(self, *, nodes: int = 4, grace: int = 20) -> None:
        self._nodes = nodes
        self._grace = grace
        self._folder: Path | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Controller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Configuration, sockets, state and logs; exists between `start` and `stop`."""
        if self._folder is None:
            raise ControllerError("the controller does not run; call start() first")
        return self._folder

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to be a client of this Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start munge, slurmctld and the nodes and wait until all are idle; `ControllerError` with the logs' end otherwise."""
        if self._folder is not None:
            raise ControllerError(f"the controller runs already, in {self._folder}")
        if (reason := missing()) is not None:
            raise ControllerError(reason)
        # Not the folder of the test: a socket's path ends at 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        try:
            self._write_configuration()
            # --force: munge wants its socket's folder open to all users; ours is open to none.
            self._launch(
                *("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket"),
                *(f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "seed", "pid")),
                f"--log-file={self.folder}/log/munge.log",
            )
            self._wait("munge's socket", (self.folder / "munge.socket").exists, 10)
            self._launch("slurmctld", "-D")
            for name in self._names:
                self._launch("slurmd", "-D", "-N", name)
            self._wait("idle nodes", self._all_idle, 30)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel all jobs, end what `start` and the jobs started (by process id), remove the folder."""
        if self._folder is None:
            return
        if len(self._daemons) == 2 + self._nodes and all(daemon.poll() is None for daemon in self._daemons.values()):
            with contextlib.suppress(ControllerError):  # what does not go by asking is ended below
                self.clear(timeout=5)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        self._end_processes()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def clear(self, timeout: float = 30) -> None:
        """End all jobs at once, without the time to leave that scancel gives, and every process that they left."""
        mine = f"--user={os.getuid()}"
        self._client("scancel", mine, "--state=PENDING")
        self._client("scancel", mine, "--signal=KILL", "--full")
        self._client("scancel", mine)
        self.wait_empty(timeout)
        self._end_processes()

    def sinfo(self) -> list[dict[str, str]]:
        """One dictionary a node: node, state, cpus, memory (MB), gres."""
        columns = {"node": "%N", "state": "%T", "cpus": "%c", "memory": "%m", "gres": "%G"}
        return self._table("sinfo", "--Node", "--partition=main", columns=columns)

    def squeue(self, *, all_states: bool = False) -> list[dict[str, str]]:
        """One dictionary a job that waits or runs: id, state, reason, nodes, name, partition.

        An array's tasks stand alone (id 12_3). With `all_states` jobs that ended in the last five minutes too.
        """
        columns = {"id": "%i", "state": "%T", "reason": "%r", "nodes": "%N", "name": "%j", "partition": "%P"}
        return self._table("squeue", "--array", *(["--states=all"] if all_states else []), columns=columns)

    def job(self, job_id: int | str) -> dict[str, str]:
        """All that the controller knows of a job (`scontrol show job`): JobState, Restarts, NodeList, ..."""
        shown = self._client("scontrol", "--oneliner", "show", "job", str(job_id))
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def scancel(self, job_id: int | str, signal: str | None = None) -> None:
        """Cancel a job; with `signal` (USR2, KILL, ...) send that to its steps instead."""
        self._client("scancel", *([f"--signal={signal}"] if signal else []), str(job_id))

    def requeue(self, job_id: int | str) -> None:
        """End a running job and put it back into the queue."""
        self._client("scontrol", "requeue", str(job_id))

    def wait_state(self, job_id: int | str, states: str | Iterable[str], timeout: float = 30) -> str:
        """Wait until the job is in one of `states` (RUNNING, COMPLETED, ...), which is returned."""
        wanted = {states} if isinstance(states, str) else set(states)
        self._wait(f"{' or '.join(sorted(wanted))} of job {job_id}", lambda: self.job(job_id)["JobState"] in wanted, timeout)
        return self.job(job_id)["JobState"]

    def wait_empty(self, timeout: float = 60) -> None:
        """Wait until no job waits, runs or completes."""
        self._wait("an empty queue", lambda: not self._client("squeue", "--noheader").strip(), timeout)

    def leftovers(self, timeout: float = 5) -> list[str]:
        """What jobs left behind, once `timeout` seconds have not sufficed to tidy it: processes and job folders of nodes.

        slurmstepd itself takes two or three seconds after a job's end, hence the wait. Zombies do not count. A process counts
        as a job's if it was started with this controller's SLURM_CONF and a SLURM_JOB_ID in its environment.
        """
        deadline = time.monotonic() + timeout
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def log(self, lines: int = 15) -> str:
        """The last lines of each daemon's log."""
        logs = sorted((self.folder / "log").iterdir())
        return "\n".join(f"--- {path.name}\n" + "\n".join(processes.text(path).splitlines()[-lines:]) for path in logs)

    # Starting

    @property
    def _names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self._nodes + 1)]

    def _write_configuration(self) -> None:
        for name in ("state", "log", "spool", "gpus", *(f"spool/{node}" for node in self._names)):
            (self.folder / name).mkdir(mode=0o700)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        # slurmd takes a GPU's file only if it is a character device; a link to one needs no right to make devices.
        gpus = []
        for node in self._names:
            for number in range(2):
                (self.folder / "gpus" / f"{node}-{number}").symlink_to("/dev/null")
            gpus.append(f"NodeName={node} Name=gpu Type=fake File={self.folder}/gpus/{node}-[0-1]")
        (self.folder / "gres.conf").write_text("\n".join(gpus) + "\n")
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(1 + self._nodes)
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 Sockets=1 CoresPerSocket=4"
            " ThreadsPerCore=1 RealMemory=8192 Gres=gpu:fake:2 State=UNKNOWN"
            for name, port in zip(self._names, ports[1:], strict=True)
        ]
        user = pwd.getpwuid(os.getuid()).pw_name
        values = {"host": host, "port": ports[0], "user": user, "folder": self.folder, "grace": self._grace}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(nodes="\n".join(nodes), **values))

    def _launch(self, name: str, *arguments: str) -> None:
        # In a session of its own, so that a terminal's Ctrl-C reaches `stop` first; ended by the kernel if this process dies
        # without `stop`.
        command = ["setpriv", "--pdeathsig", "TERM", "--", str(_binary(name)), *arguments]
        environment = self._client_environment()
        with (self.folder / "log" / "output").open("ab") as out:
            daemon = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._daemons[" ".join((name, *arguments))] = daemon

    def _all_idle(self) -> bool:
        for command, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise ControllerError(f"{command} ended with status {daemon.returncode}\n{self.log()}")
        shown = self._client("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T", check=False).split()
        return shown == ["idle"] * self._nodes

    def _end_processes(self) -> None:
        for process in processes.of_jobs(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    # Asking

    def _client_environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        return {**outside, **self.environment}

    def _client(self, name: str, *arguments: str, check: bool = True) -> str:
        command, environment = [str(_binary(name)), *arguments], self._client_environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise ControllerError(f"{name} {' '.join(arguments)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
        return done.stdout

    def _table(self, name: str, *arguments: str, columns: dict[str, str]) -> list[dict[str, str]]:
        shown = self._client(name, "--noheader", f"--format={'|'.join(columns.values())}", *arguments)
        return [dict(zip(columns, line.split("|"), strict=True)) for line in shown.splitlines()]

    def _wait(self, what: str, holds: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline:
                queue = self._client("squeue", "--states=all", "--long", check=False)
                raise ControllerError(f"waited {timeout:g} s for {what} in vain\n{queue}\n{self.log()}")
            time.sleep(0.1)

    def _left(self) -> list[str]:
        folders = [str(path) for path in sorted((self.folder / "spool").glob("*/job[0-9]*"))]
        return [f"process {process} {processes.command_line(process)}" for process in processes.of_jobs(self.folder)] + folders


def _binary(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main(arguments: list[str] | None = None) -> int:
    """Start a Slurm, say how to reach it, and hold it until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python tests/slurm/controller.py", description=main.__doc__)
    parser.add_argument("--hold", action="store_true", help="keep it until Ctrl-C; without, start and stop it once, as a check")
    parser.add_argument("--nodes", type=int, default=4, help="virtual nodes (default 4)")
    parser.add_argument("--grace", type=int, default=20, help="seconds that a preempted job has to leave (default 20)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with Controller(nodes=options.nodes, grace=options.grace) as slurm:
            for name, value in slurm.environment.items():
                print(f"export {name}={value}")
            print(f"# {options.nodes} nodes are idle. Type the line above in another terminal.", flush=True)
            if options.hold:
                print("# Ctrl-C here ends Slurm and its jobs.", flush=True)
                signal.pause()
    except KeyboardInterrupt:
        pass
    except ControllerError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
