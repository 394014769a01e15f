"""Small real jobs for the tests of executors and clusters: what ``harness.worker.run_job`` is to a sweep.

A job's plan is a JSON file {job id: {"do": name, ...}}; the functions below return what ``run_job`` would.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def run_job(plan: Path, job_id: str, report: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    task = json.loads(plan.read_text())[job_id]
    jobs = {"count": count, "die": die, "hang": hang, "raise": fail, "wait": wait, "meet": meet, "describe": describe}
    jobs["spread"] = spread
    return jobs[task["do"]](plan.parent, job_id, report, task)


def count(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Report every step, then end with the status asked for."""
    for step in range(1, task.get("steps", 3) + 1):
        report({"step": step, "steps": task.get("steps", 3), "epsilon": step / 10, "metrics": {"loss": 1 / step}})
    return {"status": task.get("status", "completed"), "message": task.get("message"), "log": f"logs/{job_id}.log"}


def die(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Report one step, then lose the process as by ``kill -9``; ``times`` times, if the task says how often, then end."""
    report({"step": 1, "steps": 3})
    before = len(list(folder.glob(f"died-{job_id}-*")))
    if before == task.get("times"):
        return {"status": "completed"}
    (folder / f"died-{job_id}-{before}").touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def hang(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Report one step, then stand still as a process does that waits for a dead disk; the second time, end."""
    report({"step": 1, "steps": 3})
    before = folder / f"hung-{job_id}"
    if not before.exists():
        before.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"status": "completed"}


def fail(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    raise RuntimeError("something that run_job should have caught")


def wait(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Go on until the stop file exists, then end as an interrupted trial does."""
    step = 0
    while not (folder / "stop").exists():
        step += 1
        report({"step": step, "steps": 1000})
        time.sleep(0.1)
    return {"status": "interrupted", "step": step}


def meet(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Say whether another job of the plan ran at the same time, waiting for it at most ``patience`` seconds."""
    here = folder / f"here-{job_id}"
    here.touch()
    end = time.monotonic() + task["patience"]
    met = False
    while not met and time.monotonic() < end:
        met = len(list(folder.glob("here-*"))) > 1
        time.sleep(0.05)
    if met:
        (folder / f"met-{job_id}").touch()
        while len(list(folder.glob("met-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
    here.unlink()
    return {"status": "completed", "met": met}


def describe(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the process of a job looks like from inside."""
    import numpy  # noqa: F401 (its BLAS is one of the pools)
    import ray
    import threadpoolctl
    import torch

    return {
        "status": "completed",
        "pools": {pool["internal_api"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()},
        "resources": ray.get_runtime_context().get_assigned_resources(),
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
        "plan": str(folder / "plan.json"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def spread(folder: Path, job_id: str, report: Callable, task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hold what was given until jobs of the plan have run on two nodes; say what it was, and from when until when."""
    import ray

    begin, node = time.time(), ray.get_runtime_context().get_node_id()
    (folder / f"node-{node}").touch()
    end = time.monotonic() + task["patience"]
    while len(list(folder.glob("node-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    gpus = os.environ["CUDA_VISIBLE_DEVICES"]
    return {"status": "completed", "node": node, "gpus": gpus, "begin": begin, "end": time.time()}
