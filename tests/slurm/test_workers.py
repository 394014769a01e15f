"""What becomes of trials, accounts and processes when worker jobs leave, are sent away, die or do not come."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from controller import Controller
from running_sweep import RunningSweep, job_of, shared_stages

from harness import sweep as command
from harness.ledger import read_attempts

pytest.importorskip("submitit")
pytestmark = pytest.mark.cluster

WORKER = {"cpus": 1, "memory": "3GB", "walltime": "10min"}
PROFILE = {"workers": 2, "worker": WORKER, "grace": "20s"}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trials of all tests share."""
    return shared_stages(tmp_path_factory.mktemp("shared"))


Fault = Callable[[str, int], object]
"""Does something to a worker job or to its trial's process."""


def strike(sweep: RunningSweep, status: str, **faults: Fault) -> None:
    """Do all ``faults``, each to another running trial and its worker, at once.

    The attempts have to end with ``status``, and others have to go on with the trials.
    """
    sweep.wait(f"{' and '.join(faults)}: enough trials", lambda: len(sweep.running()) >= len(faults))
    victims = dict(zip(faults, sweep.running(), strict=False))
    begin = time.monotonic()
    for name, record in victims.items():
        job = job_of(record.start["pid"])
        assert job is not None
        faults[name](job, record.start["pid"])
    waiting = dict(victims)
    while waiting:
        sweep.wait("going on", lambda: any(sweep.goes_on(record) for record in waiting.values()))
        for name in [name for name, record in waiting.items() if sweep.goes_on(record)]:
            record = sweep.attempts(waiting[name].trial_id)[waiting.pop(name).number - 1]
            assert record.status == status, name
            print(f"{name}: the trial went on after {time.monotonic() - begin:.1f} s")


def urgent(slurm: Controller, job: str) -> None:
    """Submit a job to the partition that preempts workers, for the whole node that ``job`` is on."""
    command = ["sbatch", "--partition=urgent", f"--nodelist={slurm.job(job)['NodeList']}", "--exclusive", "--output=/dev/null"]
    environment = {**os.environ, **slurm.environment}
    subprocess.run([*command, "--wrap=sleep 1"], check=True, capture_output=True, env=environment)


def test_trials_of_workers_that_are_told_to_leave_go_on_from_where_they_were(
    slurm: Controller, stages: Path, tmp_path: Path
) -> None:
    profile = {"workers": 3, "worker": WORKER, "grace": "20s", "options": {"exclusive": True}}
    with RunningSweep(tmp_path, slurm, profile, stages, trials=2) as sweep:
        sweep.start()
        sweep.wait("all workers", lambda: len(sweep.joined()) == 3)
        strike(sweep, "interrupted", usr2=lambda job, _: slurm.scancel(job, "USR2"), requeue=lambda job, _: slurm.requeue(job))
        strike(sweep, "interrupted", preemption=lambda job, _: urgent(slurm, job), scancel=lambda job, _: slurm.scancel(job))
        sweep.hurry()
        assert sweep.end() == 0, sweep.output()
        sweep.assert_done()
        sweep.assert_nothing_left()


def test_trials_whose_machine_or_process_dies_go_on_from_a_checkpoint(slurm: Controller, stages: Path, tmp_path: Path) -> None:
    def kill(word: str) -> Fault:
        return lambda job, _: os.kill(sweep.process_of(job, word), signal.SIGKILL)

    with RunningSweep(tmp_path, slurm, PROFILE, stages, trials=2) as sweep:
        sweep.start()
        sweep.wait("both workers", lambda: len(sweep.joined()) == 2)
        strike(sweep, "lost", trial=lambda _, process: os.kill(process, signal.SIGKILL), raylet=kill("raylet/raylet "))
        strike(sweep, "lost", ray_start=kill("slurm.node"))
        sweep.hurry()
        assert sweep.end() == 0, sweep.output()
        sweep.assert_done()
        sweep.assert_nothing_left()


def test_without_any_worker_left_the_command_ends_and_the_same_command_goes_on(
    slurm: Controller, stages: Path, tmp_path: Path
) -> None:
    with RunningSweep(tmp_path, slurm, PROFILE, stages, trials=2) as sweep:
        sweep.start(POLL_S=3)
        sweep.wait("two trials", lambda: len(sweep.running()) == 2)
        for job in sweep.workers():
            slurm.scancel(job)
        begin = time.monotonic()
        assert sweep.end() == command.INTERRUPTED, sweep.output()
        print(f"the command had ended after {time.monotonic() - begin:.1f} s")
        assert "all worker jobs have ended" in sweep.output()
        sweep.assert_nothing_left()
        assert [records[-1].status for records in read_attempts(sweep.folders).values()] == ["interrupted"] * 2
        sweep.hurry()
        sweep.start()
        assert sweep.end() == 0, sweep.output()
        sweep.assert_done()
        sweep.assert_nothing_left()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"python": "/no/such/python"}, "ended before trials could begin: .*/no/such/python"),
        ({"setup": ["source /no/such/activate || exit 3"]}, "ended before trials could begin: .*/no/such/activate"),
        ({"partition": "nowhere"}, "sbatch refused the job dpsweep-tiny: .*[Ii]nvalid partition"),
        ({"temp": "/tmp/no-such"}, "/tmp/no-such"),
    ],
)
def test_workers_that_cannot_come_end_the_command_with_the_reason(
    slurm: Controller, stages: Path, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    with RunningSweep(tmp_path, slurm, {**PROFILE, **wrong}, stages, trials=1) as sweep:
        sweep.start(POLL_S=2)
        assert sweep.end() == command.BAD_INPUT
        assert re.search(told, sweep.output().splitlines()[-1]), sweep.output()
        assert "Traceback" not in sweep.output()
        sweep.assert_nothing_left()
