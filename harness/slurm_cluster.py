"""The driver's side of a run on Slurm: a Ray head without processors here, and worker jobs that join it as the queue gives.

Workers come and go. One that leaves sends its trials away with a checkpoint, and they go on elsewhere; one that is queued
again rejoins by itself. When nothing waits for a machine any more, idle workers are given back.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slurm.jobs import RUN, Worker
from slurm.launch import POLL_S, JobRequest, QueuedJob, cancel, look, submit
from slurm.node import SlurmError
from slurm.ports import ANY, Ports
from slurm.run import BEAT_S, RunFolder

from . import snapshot
from .cluster import Cluster, Load, code_fingerprint
from .connection import OBJECT_STORE, PINNED, PINNED_OWN, ClusterError, environment, ray, start_head
from .folders import OWN
from .profiles import Profile, load_profile

IDLE_S = 60.0
"""Seconds without a trial after which a worker is given back, once nothing waits."""

_HEAD_LOST = {"RAY_gcs_rpc_server_reconnect_timeout_s": "30"}
"""Seconds after which a worker's Ray ends that cannot reach its head."""

_ALL_GONE = "all worker jobs have ended, by scancel or by themselves, and nothing can run; the same command goes on."


def worker_request(profile: Profile, name: str, run: RunFolder) -> JobRequest:
    """What a worker job of ``profile`` asks of Slurm."""
    worker = profile.worker
    return JobRequest(
        name=name,
        minutes=worker.walltime_minutes,
        grace_s=profile.grace_seconds,
        nodes=worker.nodes,
        cpus=worker.cpus,
        gpus=worker.sbatch_gpus,
        memory=worker.sbatch_memory,
        partition=profile.partition,
        **_shared(profile, run),
        options=profile.options,
    )


def head_request(profile: Profile, name: str, run: RunFolder) -> JobRequest:
    """What the job that holds the sweep asks of Slurm."""
    head = profile.head
    return JobRequest(
        name=name,
        minutes=head.walltime_minutes,
        grace_s=profile.grace_seconds,
        cpus=head.cpus,
        memory=head.sbatch_memory,
        partition=head.partition or profile.partition,
        **_shared(profile, run),
        options={**profile.options, **head.options},
    )


def _shared(profile: Profile, run: RunFolder) -> dict[str, Any]:
    # Before the folder that the command is typed in (-P: only by this), where methods of the user's own may lie.
    path = ":".join(shlex.quote(str(folder)) for folder in (run.code, Path.cwd()))
    return {
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "setup": [*profile.setup, f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}"],
        "python": f"{profile.python_command} -P",
    }


def check_code(code: str) -> None:
    """Runs in a worker job before it joins. Raises ``ClusterError`` where the code here is not that of the head."""
    if code != code_fingerprint():
        raise ClusterError("this machine has other code of dpsweep than the head's; bring both to the same version")


def start_slurm(on: str, results: Path, sweep: str, say: Callable[[str], None]) -> SlurmCluster:
    """Start a head here and the worker jobs of ``on``, ``slurm:PROFILE``; return once ``min_workers`` nodes have joined.

    In a head's job the run and the profile are those that it was submitted with. ``sweep`` is named in the queue; ``say`` gets
    a sentence whenever the number of workers changes. Raises ``ClusterError``, and ``InputError`` for a profile.
    """
    run = this_run()
    if run is None:
        profile = load_profile(on.removeprefix("slurm:"))
        run = new_run(results / sweep)
        run.write(run.record, {"profile": profile.document(), "job": None})
    else:
        profile = Profile.from_document((run.read(run.record) or {})["profile"])
    if not os.access(profile.temp, os.W_OK):
        raise ClusterError(f"temp: {profile.temp} is not there, or cannot be written, on {socket.gethostname()}; /tmp will do")
    with contextlib.ExitStack() as undo:
        _cancel(run)  # of a head that was killed in this run before
        for left in run.nodes.iterdir():
            left.unlink()
        undo.enter_context(environment(_HEAD_LOST))
        options = ["--num-cpus=0", "--num-gpus=0", f"--include-dashboard={str(profile.dashboard).lower()}"]
        options += ["--dashboard-host=127.0.0.1"] if profile.dashboard else []
        options += Ports(*profile.port_range).head() if profile.port_range else ["--port=0", *ANY]
        node, address = start_head(options, temp=profile.temp, run=run.path, undo=undo)
        cluster = SlurmCluster(address, node, profile=profile, run=run, say=say)
        cluster.guard_head(undo)
        undo.callback(_end_workers, run)
        run.write(run.head, {"address": address, "code": code_fingerprint()})
        heart = threading.Event()
        undo.callback(heart.set)
        threading.Thread(target=_beat, args=(run, heart), daemon=True, name="heart").start()
        cluster.submit(sweep)
        cluster.wait()
        cluster.undo = undo.pop_all()
        return cluster


def check_path(sweep: Path) -> None:
    """Raise ``ClusterError`` where the path of a sweep's folder cannot be given to Slurm."""
    if found := set(str(sweep)) & set("%:\\"):
        raise ClusterError(
            f"{sweep} has a `{min(found)}` in its path, which means something else to sbatch or to Python's import path: name "
            "another folder with --results"
        )


def new_run(sweep: Path) -> RunFolder:
    """Make the folder of a new run under a sweep's. Raises ``ClusterError`` where others could put files into it."""
    check_path(sweep)
    places = (sweep.parent, sweep, sweep / "clusters")
    for folder in places:
        folder.mkdir(mode=OWN, parents=True, exist_ok=True)
    if writable := " ".join(shlex.quote(str(folder)) for folder in places if folder.stat().st_mode & 0o022):
        raise ClusterError(
            f"{writable} can be written by others, who could have the jobs run their code as you: type "
            f"`chmod go-w {writable}`, or name another folder with --results"
        )
    run = RunFolder(sweep / "clusters" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}")
    run.make()
    snapshot.take(run.code)
    return run


def runs(sweep: Path) -> list[RunFolder]:
    """The runs of a sweep on Slurm, the latest last."""
    return [RunFolder(path.parent) for path in sorted((sweep / "clusters").glob("*/cluster.json"))]


def _beat(run: RunFolder, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        run.beat()


def _cancel(run: RunFolder) -> None:
    try:
        cancel(run.worker_jobs())
    except SlurmError:
        return  # the next command on the sweep finds them written down
    run.workers.unlink(missing_ok=True)


def _end_workers(run: RunFolder) -> None:
    """Cancel the worker jobs, and wait until those that had joined have left; by files, for the queue is not to be asked."""
    run.head.unlink(missing_ok=True)
    _cancel(run)
    end = time.monotonic() + 20
    while any(run.nodes.glob("*.json")) and time.monotonic() < end:
        time.sleep(0.2)


@dataclass
class SlurmCluster(Cluster):
    """The Ray of a run on Slurm; its machines are worker jobs."""

    profile: Profile = field(kw_only=True)
    run: RunFolder = field(kw_only=True)
    say: Callable[[str], None] = field(kw_only=True)
    _said: str = ""
    _looked: float = 0.0
    _none_since: int = 0
    _queued: Mapping[str, QueuedJob] = field(default_factory=dict)
    _idle_since: dict[str, float] = field(default_factory=dict)

    def submit(self, name: str) -> None:
        """Submit the worker jobs. Raises ``ClusterError``."""
        profile = self.profile
        task = Worker(
            self.run.path,
            check=check_code,
            environment={**PINNED, **PINNED_OWN, **_HEAD_LOST},
            object_store=OBJECT_STORE,
            temp=profile.temp,
            grace_s=profile.grace_seconds,
            ports=profile.port_range,
        )
        try:
            jobs = submit(worker_request(profile, f"dpsweep-{name}", self.run), task, self.run.jobs, profile.workers)
        except SlurmError as error:
            raise ClusterError(str(error)) from error
        self.run.write(self.run.workers, {"jobs": jobs})
        self._looked = time.monotonic()

    def wait(self) -> None:
        """Wait until ``min_workers`` nodes have joined, as long as the queue takes.

        Raises ``ClusterError`` where they cannot come, ``KeyboardInterrupt`` where the sweep is asked to stop.
        """
        while not self._enough(self.profile.min_workers):
            if self.run.stop.exists():
                raise KeyboardInterrupt
            if self._hopeless:
                told = "; ".join(self._problems()) or log_tail(self.run)
                raise ClusterError(f"the worker jobs have ended before trials could begin: {told} (logs: {self.run.jobs})")
            if self.head is not None and not self.head.running():
                raise ClusterError(f"the Ray head on {socket.gethostname()} has ended:\n{self.head.tail()}")
            time.sleep(1)

    def joined(self) -> dict[str, str]:
        """Ray's ids of the worker nodes that are there, with their Slurm jobs."""
        nodes = [node for node in ray().nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return {node["NodeID"]: node["Labels"].get("dpsweep-job", "") for node in nodes}

    def machines(self) -> list[Mapping[str, float]]:
        """As they are; while none is there, as the profile says that they come back."""
        worker = self.profile.worker
        size = {"CPU": float(worker.cpus), "GPU": float(worker.gpus), "memory": float(worker.memory_bytes or 2**40)}
        return super().machines() or [size]

    def look(self, stop_file: Path, load: Load) -> None:
        """Tell how many workers there are; stop where none can come any more; give back those that have nothing to do."""
        if self.run.stop.exists():
            stop_file.touch()
        if not self._enough(1) and self._hopeless and not stop_file.exists():
            self.say(f"{_ALL_GONE} {'; '.join(self._problems())} (logs: {self.run.jobs})")
            stop_file.touch()
        self._give_back(load)

    def _enough(self, least: int) -> bool:
        """Whether ``least`` nodes are there; tells how many when that changes, and looks at the queue where some are missing.

        ``_hopeless`` says after it whether too few can come: two looks in a row, half a minute apart, have to agree.
        """
        there, wanted = len(self.joined()), len(self.run.worker_jobs()) * self.profile.worker.nodes
        waiting: list[str] = []
        if there < wanted:
            if self._look_at_queue():
                coming = sum(job.state != "COMPLETING" for job in self._queued.values()) * self.profile.worker.nodes
                self._none_since = self._none_since + 1 if coming < least else 0
            waiting = [job.reason for job in self._queued.values() if job.state == "PENDING"]
        # One whose Ray has started anew is there twice until Ray has given its dead self up.
        words = f"workers: {min(there, wanted)} of {wanted} nodes have joined"
        if waiting:
            jobs_wait = "job waits" if len(waiting) == 1 else "jobs wait"
            words += f"; {len(waiting)} {jobs_wait} in the queue ({', '.join(sorted(set(waiting)))})"
        words = "; ".join([words, *self._problems()])
        if words != self._said:
            self._said = words
            self.say(words)
        if there >= least:
            self._none_since = 0
        return there >= least

    @property
    def _hopeless(self) -> bool:
        failed = len(list(self.run.nodes.glob("*.error")))
        return self._none_since >= 2 or failed >= len(self.run.worker_jobs()) * self.profile.worker.nodes > 0

    def _problems(self) -> list[str]:
        """What nodes that could not join have said, each sentence once."""
        return list(dict.fromkeys(path.read_text() for path in sorted(self.run.nodes.glob("*.error"))))

    def _look_at_queue(self) -> bool:
        """Look at the queue, but not twice in half a minute; whether it was looked at."""
        if time.monotonic() - self._looked < POLL_S:
            return False
        self._looked = time.monotonic()
        try:
            found = look(self.run)
        except SlurmError:
            return False  # a controller that restarts is no reason to end anything
        workers = self.run.worker_jobs()
        self._queued = {job: state for job, state in found.items() if job in workers}
        return True

    def _give_back(self, load: Load) -> None:
        """Cancel the jobs of workers that have had nothing to do for a while, and those still in the queue."""
        if load.waiting:
            self._idle_since.clear()
            return
        now, nodes = time.monotonic(), self.joined()
        jobs: dict[str, bool] = dict.fromkeys(self.run.worker_jobs(), False)
        for node, job in nodes.items():
            jobs[job] = jobs.get(job, False) or node in load.busy
        for job, busy in jobs.items():
            if busy:
                self._idle_since.pop(job, None)
            else:
                self._idle_since.setdefault(job, now)
        idle = [job for job, since in self._idle_since.items() if now - since > IDLE_S and job in jobs]
        if idle and len(idle) < len(jobs):
            with contextlib.suppress(SlurmError):
                cancel(idle)
                self.run.write(self.run.workers, {"jobs": [job for job in jobs if job not in idle]})
                jobs_were = "job was" if len(idle) == 1 else "jobs were"
                self.say(f"{len(idle)} worker {jobs_were} given back: nothing was left to do there")


def log_tail(run: RunFolder) -> str:
    """The telling line of the newest log of a job: the last one, but for srun's own on what its task has ended with."""
    logs = sorted(run.jobs.glob("*_log.out"), key=lambda path: path.stat().st_mtime)
    lines = [line.strip() for line in logs[-1].read_text(errors="replace").splitlines() if line.strip()] if logs else []
    telling = [line for line in lines if not line.startswith("srun: ")] or lines
    return telling[-1] if telling else "there is no log; was the folder visible on the node?"


def this_run() -> RunFolder | None:
    """The run of whose head's job this process is the command, if it is one."""
    path = os.environ.get(RUN)
    return RunFolder(Path(path)) if path else None
