"""Jobs that do nothing on a simulated cluster: what a launch and its executor take a job, and what Ray Tune takes alone.

Ray's own cluster utility starts 8 nodes with 8 logical GPUs each on this machine. On both sides 16 jobs at most run at once,
processes are reused (a sweep gives every trial a new one, which would take seconds a job on both sides and hide the rest),
and Tune writes no logs of its own.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NODES, GPUS, AT_ONCE = 8, 8, 16


def run_many_jobs(folder: Path, count: int, say: Callable[[str], None]) -> None:
    """Run ``count`` jobs on each side; say seconds a job and their ratios as they come."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    here = str(Path(__file__).parent)
    # As harness.connection sets them for a Ray of our own; before Ray is imported.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_num_grpc_internal_threads": "1",
        "RAY_num_server_call_thread": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }
    import ray
    from ray.cluster_utils import Cluster as VirtualCluster

    temporary = str(folder / "ray")  # not Ray's usual folder: a note there would lead others to this cluster
    cluster = VirtualCluster(
        head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": temporary}, initialize_head=True
    )
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=GPUS, num_gpus=GPUS, object_store_memory=80 * 2**20)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        say(f"{NODES} virtual nodes, {ray.cluster_resources()['GPU']:g} GPUs, at most {AT_ONCE} jobs at once")
        sides = {"plain Ray Tune": plain, "RayTuneExecutor": through_the_executor, "run_launch": through_a_launch}
        paces, wholes = [], []
        for name, side in sides.items():
            began, used = time.perf_counter(), time.process_time()
            ends, processes = side(folder / name, count)
            driver = (time.process_time() - used) / count
            wholes.append((time.perf_counter() - began) / count)
            # Until twice as many have ended as run at once, processes are still being started.
            paces.append((ends[-1] - ends[2 * AT_ONCE]) / (count - 2 * AT_ONCE - 1))
            say(
                f"{name:15s} {count} jobs in {processes} processes: {wholes[-1]:.3f} s a job, {paces[-1]:.3f} s without their "
                f"starts, {driver:.3f} s on the driver's processor"
            )
        for number, name in enumerate(sides):
            ratios = [of_all[number] / of_all[0] for of_all in (wholes, paces)]
            say(f"{name} / plain Ray Tune: {ratios[0]:.3f}, without process starts {ratios[1]:.3f}")
    finally:
        ray.shutdown()
        cluster.shutdown()


def through_the_executor(folder: Path, count: int) -> tuple[list[float], int]:
    """The jobs as a sweep places them, and every one of them heard of once; when they ended, in how many processes."""
    from harness.jobs import Job

    folder.mkdir()
    (folder / "plan.json").touch()  # an executor hands nothing out once it is gone
    jobs = [Job(id=f"job-{number}", kind="train", label=f"job {number}", cpu=1, gpu=1) for number in range(count)]
    with _executor("no_op:run_job") as (executor, heard):
        executor.run(jobs, folder / "plan.json", heard, folder / "stop")
    assert heard.ended == Counter(job.id for job in jobs), f"{len(heard.ended)} of {count} jobs are heard of"
    return heard.times, len(heard.processes)


def through_a_launch(folder: Path, count: int) -> tuple[list[float], int]:
    """The jobs as the trials of a sweep whose file is planned, launched and finished: a row in its table for every one."""
    from harness import store
    from harness.expand import expand
    from harness.folders import Folders
    from harness.launch import finish, new_launch, run_launch
    from harness.lock import DriverLock
    from harness.plan import make_plan
    from harness.spec import load_sweep

    folder.mkdir()
    file = folder / "launch.yaml"
    file.write_text(
        f"{{name: launch, method: dp_energy, data: {{source: digits}}, privacy: {{epsilon: 10, accountant: pld}}, "
        f"seeds: {count}, evaluate: {{samples: 100}}, resources: {{cpu: 1, gpu: 1}}}}"
    )
    folders = Folders(folder / "results", "launch")
    with DriverLock(folders.lock), _executor("no_op:run_planned_job") as (executor, heard):
        plan = make_plan(folders, expand(load_sweep(file)))
        run_launch(plan, new_launch(plan, {}), executor, heard)
        finish(plan)
    assert set(heard.ended) >= {trial.trial_id for trial in plan.trials}
    table = store.read(folders.sweep).trials
    assert sorted(table.trial_id) == sorted(trial.trial_id for trial in plan.trials), "one row a trial"
    assert len(table) == count
    return heard.times, len(heard.processes)


class _Heard:
    """An executor's events: how often each job has ended well, when, and in which processes."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.times: list[float] = []
        self.processes: set[int] = set()

    def __call__(self, event: Any) -> None:
        if event.kind == "finished" and event.data["status"] == "completed":
            self.ended[event.job_id] += 1
            self.times.append(time.perf_counter())
            self.processes.add(event.data["process_id"])


@contextmanager
def _executor(target: str) -> Iterator[tuple[Any, _Heard]]:
    """An executor whose processes are used again, and what hears its events."""
    from harness.cluster import Cluster
    from harness.executors import ray_tune

    heard, real = _Heard(), ray_tune.tune.TuneConfig
    try:
        ray_tune.tune.TuneConfig = lambda **settings: real(**settings | {"reuse_actors": True})
        yield ray_tune.RayTuneExecutor(Cluster("virtual"), max_concurrent=AT_ONCE, target=target), heard
    finally:
        ray_tune.tune.TuneConfig = real


def plain(folder: Path, count: int) -> tuple[list[float], int]:
    """The same number of trials of a trainable that does nothing, all of them in the table of results; as above."""
    from no_op import trainable
    from ray import tune

    from harness.connection import environment
    from harness.executors.ray_tune import _TUNE

    times: list[float] = []

    class Clock(tune.Callback):
        def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
            times.append(time.perf_counter())

    settings: dict[str, Any] = {"num_samples": count, "max_concurrent_trials": AT_ONCE, "reuse_actors": True}
    with environment(_TUNE):
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1, "gpu": 1}),
            tune_config=tune.TuneConfig(**settings),
            run_config=tune.RunConfig(name="jobs", storage_path=str(folder), verbose=0, callbacks=[Clock()]),
        ).fit()
    assert [result.metrics["status"] for result in results] == ["completed"] * count
    return times, len({result.metrics["process_id"] for result in results})
