"""Jobs of Slurm, through submitit: submit, show the script, look at the queue, cancel.

Slurm's own accounting is never asked (a cluster may have none), and the queue is looked at with one call for all jobs.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.helpers import clean_env

from .node import SlurmError
from .run import RunFolder

POLL_S = 30.0
"""Fewest seconds between two looks at the queue."""

_ROUNDS = 1_000_000
"""How often a job may be queued again after its walltime; submitit counts every job under ten minutes as timed out."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What one job asks of Slurm."""

    name: str
    minutes: int
    grace_s: int
    """Seconds before its walltime ends at which the job is told to leave."""
    nodes: int = 1
    cpus: int = 1
    gpus: str | None = None
    """A node's GPUs as ``--gpus-per-node`` takes them: ``2``, ``a100:2``."""
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: Sequence[str] = ()
    python: str = "python"
    """What starts Python in the job, for the shell."""
    options: Mapping[str, Any] | None = None
    """Further options of sbatch by their long names."""


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job that waits or runs."""

    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits: Priority, Resources, ..."""
    nodes: str


def submit(request: JobRequest, task: Any, folder: Path, count: int = 1) -> list[str]:
    """Submit ``count`` jobs that each call ``task()``; return their ids. ``folder`` is shared and keeps pickles and logs.

    Raises ``SlurmError``; jobs of the call that were submitted before are then cancelled.
    """
    executor = _executor(request, folder)
    jobs: list[str] = []
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():  # a job that submits jobs would lend them its own SLURM_ variables
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration  # where the cluster is, not what the job is
        try:
            for _ in range(count):
                jobs.append(executor.submit(task).job_id)
        except Exception as error:
            cancel(jobs)
            raise SlurmError(
                f"sbatch refused the job {request.name}: {_said(error)}; change the profile (slurm/README.md, `When workers do "
                "not come`, says what)"
            ) from error
    return jobs


def script(request: JobRequest, folder: Path) -> str:
    """The script that ``submit`` would give to sbatch."""
    executor = _executor(request, folder)
    # submitit has no public way to the text; what it submits is made by this.
    return str(executor._make_submission_file_text(executor._submitit_command_str, "job")).rstrip()


def queue(jobs: Iterable[str]) -> dict[str, QueuedJob]:
    """Those of ``jobs`` that wait or run, with one look at the queue. Raises ``SlurmError`` where Slurm does not answer."""
    wanted = set(jobs)
    if not wanted:
        return {}
    user = ["--me"] if _takes_me() else []
    answer = _client(["squeue", *user, "--noheader", "--format=%i|%T|%r|%N"])
    found = {}
    for line in answer.splitlines():
        job, state, reason, nodes = line.strip().split("|", 3)
        if job in wanted:
            found[job] = QueuedJob(state=state, reason=reason, nodes=nodes)
    return found


def look(run: RunFolder) -> dict[str, QueuedJob]:
    """Those of a run's jobs that wait or run, as somebody has seen them within half a minute; else with one look at the queue.

    So all who ask, the sweep, a command that follows it and ``--status``, share one look. Raises ``SlurmError``.
    """
    jobs = [*filter(None, [run.head_job()]), *run.worker_jobs()]
    kept = run.read(run.queue)
    if kept is not None and abs(time.time() - run.queue.stat().st_mtime) < POLL_S and set(jobs) <= set(kept["jobs"]):
        return {job: QueuedJob(**found) for job, found in kept["found"].items() if job in jobs}
    seen = queue(jobs)
    run.write(run.queue, {"jobs": jobs, "found": {job: vars(found) for job, found in seen.items()}})
    return seen


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that are over already are none's business. Raises ``SlurmError`` where Slurm does not answer."""
    if jobs:
        _client(["scancel", "--quiet", *jobs], accept=1)


def _executor(request: JobRequest, folder: Path) -> SlurmExecutor:
    try:
        executor = SlurmExecutor(folder, max_num_timeout=_ROUNDS, python=request.python)
    except RuntimeError as error:
        raise SlurmError("there is no srun on this machine: type the command on a login node of the cluster") from error
    parameters: dict[str, Any] = {
        "job_name": request.name,
        "time": request.minutes,
        "nodes": request.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": request.cpus,
        "mem": request.memory,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "signal_delay_s": request.grace_s,
        "setup": list(request.setup) or None,
        "stderr_to_stdout": True,
        "wckey": None,
        "srun_args": [f"--cpus-per-task={request.cpus}"],  # since Slurm 22.05 srun does not take it from the job
    }
    options: dict[str, Any] = {"requeue": True, **(request.options or {})}
    if request.gpus is not None:
        options["gpus-per-node"] = request.gpus  # submitit's own parameter takes no type
    executor.update_parameters(
        **{name: value for name, value in parameters.items() if value is not None or name == "wckey"},
        additional_parameters=options,
    )
    return executor


def _takes_me() -> bool:
    """squeue has had --me since Slurm 20.11; before it is told nothing and shows everybody's jobs."""
    version = re.search(r"(\d+)\.(\d+)", _client(["squeue", "--version"]))
    return version is not None and (int(version[1]), int(version[2])) >= (20, 11)


def _client(command: Sequence[str], accept: int = 0) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise SlurmError(f"there is no {command[0]} here: type the command on a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} has not answered for a minute; is the controller of the cluster up?") from error
    if done.returncode not in (0, accept):
        raise SlurmError(
            f"{command[0]}: {_said(done.stderr)}; if `sinfo` fails here too, this is no machine of the cluster, or its "
            "controller is down"
        )
    return done.stdout


def _said(error: BaseException | str) -> str:
    """The telling line of what sbatch or squeue has said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(sbatch|squeue|scancel): (error|fatal)", line)]
    return (told or lines or ["no message"])[-1].removeprefix("sbatch: ").removeprefix("squeue: ").removeprefix("error: ")
