"""What becomes of trials, accounts and processes when worker jobs leave, are sent away, die or do not come."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from controller import Controller
from running_sweep import RunningSweep, job_of, shared_stages

pytest.importorskip("submitit")
pytestmark = pytest.mark.cluster

PROFILE = {"workers": 3, "worker": {"cpus": 1, "memory": "3GB", "walltime": "10min"}, "grace": "20s"}
EACH_ITS_NODE = {**PROFILE, "options": {"exclusive": True}}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trials of all tests share."""
    return shared_stages(tmp_path_factory.mktemp("shared"))


class Faults:
    """Does something to a worker job that runs a trial, and notes how long it took until the trial went on."""

    def __init__(self, sweep: RunningSweep) -> None:
        self._sweep = sweep

    def __call__(self, name: str, act: Callable[[str, int], object], status: str) -> None:
        """``act`` gets the job and the trial's process; the attempt has to end with ``status``, and another one to follow."""
        sweep = self._sweep
        sweep.wait(f"{name}: a trial", sweep.running)
        record = sweep.running()[0]
        job = job_of(record.start["pid"])
        assert job is not None
        begin = time.monotonic()
        act(job, record.start["pid"])
        sweep.wait(f"{name}: the end of the attempt", lambda: sweep.attempts(record.trial_id)[record.number - 1].end)
        ended = time.monotonic() - begin
        sweep.wait(f"{name}: going on", lambda: sweep.goes_on(record))
        print(f"{name}: {ended:.1f} s until the attempt had ended, {time.monotonic() - begin:.1f} s until the trial went on")
        assert sweep.attempts(record.trial_id)[record.number - 1].status == status, name


def urgent(slurm: Controller, job: str) -> None:
    """Submit a job to the partition that preempts workers, for the whole node that ``job`` is on."""
    command = ["sbatch", "--partition=urgent", f"--nodelist={slurm.job(job)['NodeList']}", "--exclusive", "--output=/dev/null"]
    environment = {**os.environ, **slurm.environment}
    subprocess.run([*command, "--wrap=sleep 1"], check=True, capture_output=True, env=environment)


def test_trials_of_workers_that_are_told_to_leave_go_on_from_where_they_were(
    slurm: Controller, stages: Path, tmp_path: Path
) -> None:
    with RunningSweep(tmp_path, slurm, EACH_ITS_NODE, stages, trials=2) as sweep:
        sweep.start()
        sweep.wait("all workers", lambda: len(sweep.joined()) == 3)
        fault = Faults(sweep)
        fault("USR2", lambda job, _: slurm.scancel(job, "USR2"), "interrupted")
        fault("requeue", lambda job, _: slurm.requeue(job), "interrupted")
        fault("preemption", lambda job, _: urgent(slurm, job), "interrupted")
        fault("scancel", lambda job, _: slurm.scancel(job), "interrupted")
        sweep.hurry()
        assert sweep.end() == 0, sweep.output()
        sweep.assert_done()
        sweep.assert_nothing_left()


def test_trials_whose_machine_or_process_dies_go_on_from_a_checkpoint(slurm: Controller, stages: Path, tmp_path: Path) -> None:
    def kill(word: str) -> Callable[[str, int], object]:
        return lambda job, _: os.kill(sweep.process_of(job, word), signal.SIGKILL)

    with RunningSweep(tmp_path, slurm, PROFILE, stages, trials=2) as sweep:
        sweep.start()
        sweep.wait("all workers", lambda: len(sweep.joined()) == 3)
        fault = Faults(sweep)
        fault("kill a trial", lambda _, process: os.kill(process, signal.SIGKILL), "lost")
        fault("kill a raylet", kill("raylet/raylet "), "lost")
        fault("kill a worker's ray start", kill("slurm.node"), "lost")
        sweep.hurry()
        assert sweep.end() == 0, sweep.output()
        sweep.assert_done()
        sweep.assert_nothing_left()
