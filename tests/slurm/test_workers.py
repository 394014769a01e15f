"""What becomes of trials, accounts and processes when worker jobs leave, are sent away, die or do not come."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from controller import Controller
from running_sweep import RunningSweep, job_of, shared_stages

from harness import sweep as command
from harness.attempts import read_attempts
from harness.cluster import connect
from harness.jobs import Event, Job

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


def block(slurm: Controller, nodes: int) -> str:
    """Take whole nodes until the job that is returned is cancelled."""
    command = ["sbatch", "--parsable", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", "--wrap=sleep 3600"]
    environment = {**os.environ, **slurm.environment}
    job = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
    slurm.wait_state(job, "RUNNING")
    return job


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


def test_without_any_worker_left_the_command_ends_and_goes_on_with_workers_of_two_nodes(
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

        sweep.write_profile({**PROFILE, "workers": 1, "min_workers": 2, "worker": {**WORKER, "nodes": 2}})
        sweep.start()
        sweep.wait("a trial on each node", lambda: len(sweep.running()) == 2)
        assert sweep.output().count("workers: 2 of 2 nodes have joined") == 2
        records, (job,) = sweep.running(), sweep.workers()
        begin = time.monotonic()
        slurm.scancel(job, "USR2")
        sweep.wait("going on", lambda: all(sweep.goes_on(record) for record in records))
        print(f"usr2 to two nodes: both trials went on after {time.monotonic() - begin:.1f} s")
        assert [sweep.attempts(record.trial_id)[1].status for record in records] == ["interrupted"] * 2
        assert slurm.job(job)["Restarts"] == "1"
        sweep.hurry()
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


def test_a_worker_with_other_code_than_the_head_s_does_not_join(slurm: Controller, stages: Path, tmp_path: Path) -> None:
    """Somebody edits the run's copy of the code while its jobs wait in the queue."""
    blocking = block(slurm, 4)
    with RunningSweep(tmp_path, slurm, PROFILE, stages, trials=1) as sweep:
        sweep.start(POLL_S=2)
        sweep.wait(
            "jobs in the queue", lambda: sweep.folders.sweep.is_dir() and list(sweep.folders.sweep.glob("clusters/*/w*"))
        )
        with (sweep.run.code / "harness" / "labels.py").open("a") as source:
            source.write("# another line\n")
        slurm.scancel(blocking)
        assert sweep.end() == command.BAD_INPUT
        last = sweep.output().splitlines()[-1]
        assert "the worker jobs have ended before trials could begin" in last
        assert "other code of dpsweep than the head's" in last
        sweep.assert_nothing_left()


def test_jobs_spread_to_a_worker_that_comes_later_each_on_a_gpu_of_its_own_and_idle_workers_are_given_back(
    in_slurm: Controller, stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.slurm_cluster.POLL_S", 3)
    monkeypatch.setattr("harness.slurm_cluster.IDLE_S", 3)
    profile = {"workers": 2, "worker": {**WORKER, "cpus": 2, "gpus": 2}, "grace": "20s"}
    blocking = block(in_slurm, 3)
    said, events = list[str](), list[Event]()
    with RunningSweep(tmp_path, in_slurm, profile, stages, trials=1) as sweep:
        executor = connect(
            f"slurm:{tmp_path / 'profile.yaml'}",
            results=sweep.folders.root,
            sweep="tiny",
            target="sample_jobs:run_job",
            say=said.append,
        )
        try:
            assert len(sweep.joined()) == 1
            plan = tmp_path / "plan.json"
            tasks = {f"job{number}": {"do": "spread", "patience": 240} for number in range(6)}
            plan.write_text(json.dumps(tasks))

            def free_the_nodes(event: Event) -> None:
                events.append(event)
                if [event.kind for event in events].count("started") == 2:  # the GPUs of the worker that is there
                    in_slurm.scancel(blocking)

            jobs = [Job(id=name, kind="train", label=name, gpu=1, memory=10**8) for name in tasks]
            executor.run(jobs, plan, free_the_nodes, tmp_path / "stop")
            used = [event.data for event in events if event.kind == "finished"]
            assert [use["status"] for use in used] == ["completed"] * 6
            assert len({use["node"] for use in used}) == 2
            assert {use["gpus"] for use in used} == {"0", "1"}
            for one, other in combinations(used, 2):
                apart = one["end"] <= other["begin"] or other["end"] <= one["begin"]
                assert apart or (one["node"], one["gpus"]) != (other["node"], other["gpus"]), "two jobs had one GPU"
            assert any(sentence.startswith("workers: 2 of 2 nodes have joined") for sentence in said)

            def end_when_given_back(event: Event) -> None:
                if event.kind == "progress" and len(sweep.workers()) == 1:
                    (tmp_path / "stop").touch()

            plan.write_text(json.dumps({"last": {"do": "wait"}}))
            executor.run(
                [Job(id="last", kind="train", label="last", memory=10**8)], plan, end_when_given_back, tmp_path / "stop"
            )
            assert "1 worker job was given back: nothing was left to do there" in said
            assert not any("all worker jobs have ended" in sentence for sentence in said)
        finally:
            executor.close()
        in_slurm.scancel(blocking)
        sweep.assert_nothing_left()
