"""What a process may use, asked inside jobs and steps of a real Slurm that binds no task to its processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from controller import OVER, Controller

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
MB = 2**20
HERE = "import dataclasses, json; from slurm.allocation import here; print(json.dumps(dataclasses.asdict(here())))"


def slurm(*command: str, **options: Any) -> str:
    """What a command of Slurm prints; jobs find this project's code, and nothing of a job that the tests may run in."""
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith(("SLURM", "CUDA"))}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, **options).stdout


def test_a_step_inside_a_job_has_its_processors_and_the_script_the_jobs(in_slurm: Controller, tmp_path: Path) -> None:
    here = f"{sys.executable} -c '{HERE}'"
    script = f"#!/bin/sh\nsrun --ntasks=1 --cpus-per-task=1 {here} > {tmp_path}/step\n{here} > {tmp_path}/script\n"
    options = ["--parsable", "--output=/dev/null", "--cpus-per-task=3", "--mem=800", "--gres=gpu:fake:1"]
    job = slurm("sbatch", *options, input=script).strip()
    assert in_slurm.wait_state(job, OVER, timeout=60) == "COMPLETED"
    assert json.loads((tmp_path / "step").read_text()) == {"cpus": 1, "memory": 800 * MB, "gpus": 1}
    cpus = min(3, len(os.sched_getaffinity(0)))  # the virtual node has more than the machine
    assert json.loads((tmp_path / "script").read_text()) == {"cpus": cpus, "memory": 800 * MB, "gpus": 1}


def test_memory_that_nobody_asked_for_is_the_default_of_the_cluster(in_slurm: Controller, tmp_path: Path) -> None:
    script = f"#!/bin/sh\n{sys.executable} -c '{HERE}' > {tmp_path}/script\n"
    job = slurm("sbatch", "--parsable", "--output=/dev/null", "--cpus-per-task=2", input=script).strip()
    assert in_slurm.wait_state(job, OVER, timeout=60) == "COMPLETED"
    assert json.loads((tmp_path / "script").read_text())["memory"] == 2 * 512 * MB  # DefMemPerCPU


def test_a_job_of_srun_alone(in_slurm: Controller) -> None:
    """Such a job is told nothing of its memory; where the cluster enforces it, cgroups say it."""
    found = json.loads(slurm("srun", "--cpus-per-task=1", "--gres=gpu:fake:2", sys.executable, "-c", HERE))
    assert (found["cpus"], found["gpus"]) == (1, 2)
    assert json.loads(slurm("srun", "--cpus-per-task=1", sys.executable, "-c", HERE))["gpus"] == 0
