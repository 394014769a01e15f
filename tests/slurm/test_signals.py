"""Which processes of a submitit job Slurm tells to leave, and what becomes of those that do not listen.

This is what `slurm.node` relies on. It holds for proctrack/linuxproc (see controller.py), under which every process of the job
that still has its parent hears every signal. Under proctrack/cgroup, usual in production, only the task itself (submitit's
Python) hears any but SIGKILL, and nothing outlives the task; so a job has to tell its own children, and to end them itself.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import processes
import pytest
from controller import Controller
from slurm_jobs import Family

pytestmark = pytest.mark.cluster

LISTENERS = ("child", "grandchild")
SHIELDED = ("shielded", "heir")


class RunningFamily:
    """A `Family` that runs as a job of submitit on a whole node."""

    def __init__(self, folder: Path, *, minutes: int = 60, use_srun: bool = True) -> None:
        import submitit

        self.folder = folder
        # The signal is asked for 55 s before the walltime ends: in the first seconds of a job of one minute.
        executor = submitit.SlurmExecutor(folder=folder / "log", python=sys.executable)
        executor.update_parameters(
            time=minutes,
            nodes=1,
            cpus_per_task=4,
            signal_delay_s=55,
            use_srun=use_srun,
            setup=[f"export PYTHONPATH={Path(__file__).parent}"],
            additional_parameters={"nodelist": "n1"},
        )
        self.id = executor.submit(Family(folder)).job_id
        wait(lambda: (folder / "ready").exists(), 60)

    def process(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def alive(self) -> set[str]:
        return {name for name in Family.members if processes.alive(self.process(name))}

    def heard(self, name: str) -> set[str]:
        """Signals that a member has noted; ``main`` is submitit's own process, which logs them."""
        if name == "main":
            logs = "".join(path.read_text() for path in (self.folder / "log").glob("*_0_log.*"))
            return {word for word in logs.replace(".", " ").split() if word.startswith("SIG")}
        notes = self.folder / name
        return set(notes.read_text().split()) if notes.exists() else set()

    def blocked_sigterm(self, name: str) -> bool:
        """Whether SIGTERM was sent to a member that has it blocked, and waits."""
        status = processes.text(Path(f"/proc/{self.process(name)}/status")).splitlines()
        pending = next(int(line.split()[1], 16) for line in status if line.startswith("ShdPnd:"))
        return bool(pending >> (signal.SIGTERM - 1) & 1)

    def checkpointed(self) -> bool:
        return (self.folder / "checkpoint").exists()


def wait(holds: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.1)


@pytest.fixture
def family(in_slurm: Controller, tmp_path: Path) -> Callable[..., RunningFamily]:
    """Starts a family, which `in_slurm` ends after the test."""
    pytest.importorskip("submitit")
    return partial(RunningFamily, tmp_path)


@pytest.mark.parametrize("way", ["scancel", "requeue"])
def test_a_cancelled_or_requeued_job_hears_sigterm_and_is_killed_after_kill_wait(
    way: str, in_slurm: Controller, family: Callable[..., RunningFamily]
) -> None:
    job = family()
    in_slurm.scancel(job.id) if way == "scancel" else in_slurm.requeue(job.id)
    wait(lambda: all("SIGTERM" in job.heard(name) for name in (*LISTENERS, "main")), 10)
    wait(lambda: all(job.blocked_sigterm(name) for name in SHIELDED), 10)
    assert job.heard("orphan") == set(), "only what still has its parent belongs to the job"
    assert job.alive() == set(Family.members)
    wait(lambda: job.alive() == {"orphan"}, 40)  # KillWait is 20 s
    assert not job.checkpointed(), "submitit takes SIGTERM for none of its business"


def test_usr2_is_heard_by_all_and_what_the_job_does_not_end_itself_outlives_it(
    in_slurm: Controller, family: Callable[..., RunningFamily]
) -> None:
    job = family()
    in_slurm.scancel(job.id, "USR2")
    wait(job.checkpointed, 10)
    wait(lambda: all("SIGUSR2" in job.heard(name) for name in LISTENERS), 10)
    in_slurm.wait_state(job.id, "PENDING")  # submitit has queued it again, and ended
    assert "SIGUSR2" in job.heard("main")
    assert job.heard("orphan") == set()
    # By default SIGUSR2 ends a process: the shielded ignore it, which the heir took over from its parent.
    assert job.alive() == set(Family.members)
    assert {line.rpartition(" ")[2] for line in in_slurm.leftovers(timeout=3)} == set(Family.members)


def test_preemption_sends_usr2_to_all(in_slurm: Controller, family: Callable[..., RunningFamily]) -> None:
    job = family()
    urgent = ["sbatch", "--partition=urgent", "--nodelist=n1", "--cpus-per-task=4", "--output=/dev/null", "--wrap=true"]
    subprocess.run(urgent, check=True, capture_output=True)
    wait(job.checkpointed, 10)
    wait(lambda: all("SIGUSR2" in job.heard(name) for name in (*LISTENERS, "main")), 10)
    in_slurm.wait_state(job.id, "PENDING")
    assert set(SHIELDED) <= job.alive()


def test_before_its_walltime_ends_a_job_hears_usr2(in_slurm: Controller, family: Callable[..., RunningFamily]) -> None:
    job = family(minutes=1)
    wait(job.checkpointed, 60)  # the controller looks at time limits each half minute
    wait(lambda: all("SIGUSR2" in job.heard(name) for name in (*LISTENERS, "main")), 10)
    assert set(SHIELDED) <= job.alive()
    in_slurm.wait_state(job.id, "PENDING")


def test_without_srun_submitit_never_hears_usr2(in_slurm: Controller, family: Callable[..., RunningFamily]) -> None:
    job = family(use_srun=False)
    in_slurm.scancel(job.id, "USR2")  # as --signal=USR2@N does: to the steps of the job, of which it has none
    subprocess.run(["scancel", "--full", "--signal=CONT", job.id], check=True)  # to its batch script as well
    wait(lambda: "SIGCONT" in job.heard("main"), 10)
    assert "SIGUSR2" not in job.heard("main") | job.heard("child")
    assert not job.checkpointed()
