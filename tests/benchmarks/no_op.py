"""Jobs that do nothing, for the executor, for a launch and for plain Ray Tune."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.jobs import Report


def run_job(plan: Path, job_id: str, report: Report) -> Mapping[str, Any]:
    """What ``harness.worker.run_job`` is to a sweep."""
    return {"status": "completed", "process_id": os.getpid()}


def run_planned_job(plan: Path, job_id: str, report: Report) -> Mapping[str, Any]:
    """The same for a job of a plan: all that a trial writes down (attempt, account, row, end record), and no training."""
    from harness import rows, store
    from harness.attempts import Attempt
    from harness.folders import Folders
    from harness.planfile import read_job

    folders, job = Folders(plan.parents[3], plan.parents[2].name), read_job(plan, job_id)
    if job["kind"] == "stage":
        (folders.stages / job_id).mkdir(parents=True)
        return run_job(plan, job_id, report)
    phases = rows.phases_of(job)
    attempt = Attempt.open(folders, job_id, kind="train", lineage=job["data"]["lineage"], phases=phases, plan=plan)
    nothing = [0] * len(phases)
    attempt.settle(nothing, stopped=False)
    settings = {"status": "completed", "attempt": attempt.number, "executed": nothing, "kept_steps": None}
    row = rows.trial_row(job, **settings, stopped=False, proven=True, exogenous=True, message=None, attempts=1)
    parts = [store.write_part(folders, "trials", f"{job_id}.{attempt.number}", [row])]
    attempt.close("completed", parts=parts, evaluation_id=None, message=None, resumable=True, step=0, executed=nothing)
    return run_job(plan, job_id, report)


def trainable(config: Mapping[str, Any]) -> None:
    """The same for Tune itself, with as many reports: where it runs, and what came of it."""
    import ray
    from ray import tune

    tune.report({"process": (ray.get_runtime_context().get_node_id(), os.getpid())})
    tune.report({"status": "completed", "process_id": os.getpid()})
