"""The Slurm that other tests rely on does what a production cluster does: places, signals, preempts, requeues, cancels."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from controller import OVER, Controller, ControllerError, missing

pytestmark = pytest.mark.cluster


def sbatch(script: str, *options: str) -> str:
    """Submit a shell script; the job's id."""
    command = ["sbatch", "--parsable", "--output=/dev/null", *options]
    return subprocess.run(command, input=f"#!/bin/sh\n{script}\n", capture_output=True, text=True, check=True).stdout.strip()


def srun(script: str, *options: str) -> list[str]:
    """The sorted lines that a command prints on its nodes."""
    done = subprocess.run(["srun", *options, "sh", "-c", script], capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def python_with_jobs(folder: Path) -> str:
    """An interpreter that can import slurm_jobs."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={Path(__file__).parent} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def wait_for(path: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear in {timeout} s"
        time.sleep(0.1)


def started_with(entry: str) -> list[str]:
    """Command lines of living processes that have this in their environment."""
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = [process for process in found if entry.encode() in processes.content(Path(f"/proc/{process}/environ")).split(b"\0")]
    return [processes.command_line(process) for process in found if processes.alive(process)]


def test_nodes_have_processors_memory_and_gpus(in_slurm: Controller) -> None:
    assert in_slurm.sinfo() == [
        {"node": f"n{number}", "state": "idle", "cpus": "4", "memory": "8192", "gres": "gpu:fake:2"} for number in range(1, 5)
    ]


def test_a_command_runs_on_two_nodes_each_with_its_gpus(in_slurm: Controller) -> None:
    show = "echo $SLURM_NODEID ${CUDA_VISIBLE_DEVICES-none} $SLURM_CPUS_PER_TASK"
    assert srun(show, "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", "--cpus-per-task=3") == ["0 0,1 3", "1 0,1 3"]
    assert srun(show, "--gres=gpu:fake:1", "--cpus-per-task=1") == ["0 0 1"]
    assert srun(show, "--cpus-per-task=1") == ["0 none 1"]


def test_two_jobs_on_one_node_have_different_gpus(in_slurm: Controller, tmp_path: Path) -> None:
    for name in ("first", "second"):
        sbatch(f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/{name}; sleep 60", "--nodelist=n1", "--gpus=1")
    deadline = time.monotonic() + 20
    while len([path for path in tmp_path.iterdir() if path.stat().st_size]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"0\n", "1\n"}


def test_a_requeued_job_starts_again_under_its_id(in_slurm: Controller, tmp_path: Path) -> None:
    job = sbatch(f'echo $SLURM_RESTART_COUNT >> {tmp_path}/starts; [ -n "$SLURM_RESTART_COUNT" ] || exec sleep 300')
    in_slurm.wait_state(job, "RUNNING")
    in_slurm.requeue(job)
    assert in_slurm.wait_state(job, OVER, timeout=60) == "COMPLETED"
    assert in_slurm.job(job)["Restarts"] == "1"
    assert (tmp_path / "starts").read_text() == "\n1\n"


def test_a_cancelled_job_leaves_the_queue_and_nothing_behind(in_slurm: Controller) -> None:
    job = sbatch("sleep 300 & sleep 300")
    in_slurm.wait_state(job, "RUNNING")
    assert [(one["id"], one["state"]) for one in in_slurm.squeue()] == [(job, "RUNNING")]
    in_slurm.scancel(job)
    in_slurm.wait_empty()
    assert in_slurm.job(job)["JobState"] == "CANCELLED"
    assert in_slurm.leftovers() == []


def test_a_job_too_large_for_the_nodes_is_refused(in_slurm: Controller) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        sbatch("true", "--gpus-per-node=3")
    assert "Requested node configuration is not available" in error.value.stderr


def test_preemption_reaches_a_checkpoint_and_requeues(in_slurm: Controller, tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    from slurm_jobs import Patient, node

    executor = submitit.AutoExecutor(folder=tmp_path / "log", cluster="slurm", slurm_python=python_with_jobs(tmp_path))
    # An hour: submitit takes a signal within ten minutes of a job's end for its time limit.
    executor.update_parameters(timeout_min=60, nodes=1, cpus_per_task=4, slurm_additional_parameters={"nodelist": "n1"})
    patient = executor.submit(Patient(tmp_path))
    in_slurm.wait_state(patient.job_id, "RUNNING")
    wait_for(tmp_path / "runs", 60)
    executor.update_parameters(slurm_partition="urgent")
    urgent = executor.submit(node)
    assert urgent.result() == "n1"
    assert (tmp_path / "checkpoint").exists()
    assert in_slurm.wait_state(patient.job_id, OVER, timeout=90) == "COMPLETED"
    assert patient.result() == "told"
    assert (tmp_path / "runs").read_text() == f"{patient.job_id} 0\n{patient.job_id} 1\n"


def test_stop_ends_jobs_that_outlive_their_cancellation_and_removes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = Controller(nodes=1)
    with slurm:
        monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
        folder = slurm.folder
        job = sbatch("(setsid sleep 300 &) ; sleep 300")  # its parent ends at once: this one is lost to proctrack/linuxproc
        slurm.wait_state(job, "RUNNING")
        slurm.scancel(job, "KILL")
        slurm.scancel(job)
        slurm.wait_empty()
        # The other one too, if the shell that waits for it has ended before it was looked for.
        assert {line.split(maxsplit=2)[2] for line in slurm.leftovers(timeout=3)} == {"sleep 300"}
    assert not folder.exists()
    assert processes.of_jobs(folder) == []
    with pytest.raises(ControllerError, match="call start"):
        slurm.squeue()


def test_held_from_a_shell_it_says_how_to_reach_it_and_ends_on_sigterm() -> None:
    command = [sys.executable, str(Path(__file__).parent / "controller.py"), "--hold", "--nodes=2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        line = held.stdout.readline()
        assert line.startswith("export SLURM_CONF=/tmp/slurm-")
        conf = Path(line.strip().partition("=")[2])
        environment = {**os.environ, "SLURM_CONF": str(conf)}
        ask = ["sinfo", "--noheader", "--format=%D %T", "--partition=main"]
        shown = subprocess.run(ask, env=environment, capture_output=True, text=True, check=True)
        assert shown.stdout == "2 idle\n"
        held.send_signal(signal.SIGTERM)
        assert held.wait(30) == 0
    assert not conf.parent.exists()


def test_killed_outright_its_daemons_end_too() -> None:
    command = [sys.executable, str(Path(__file__).parent / "controller.py"), "--hold", "--nodes=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        folder = Path(held.stdout.readline().strip().partition("=")[2]).parent
        held.kill()
    deadline = time.monotonic() + 20
    while left := started_with(f"SLURM_CONF={folder}/slurm.conf"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    shutil.rmtree(folder)


def test_where_slurm_is_missing_the_tests_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = missing()
    assert reason is not None
    assert "sbatch" in reason
    assert "apt-get install --no-install-recommends slurm-wlm munge" in reason
    with pytest.raises(ControllerError, match="sbatch"):
        Controller().start()
