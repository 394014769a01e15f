"""Jobs that do nothing, for the executor and for plain Ray Tune."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.jobs import Report


def run_job(plan: Path, job_id: str, report: Report) -> Mapping[str, Any]:
    """What ``harness.worker.run_job`` is to a sweep."""
    return {"status": "completed", "process_id": os.getpid()}


def trainable(config: Mapping[str, Any]) -> None:
    """The same for Tune itself, with as many reports: where it runs, and what came of it."""
    import ray
    from ray import tune

    tune.report({"process": (ray.get_runtime_context().get_node_id(), os.getpid())})
    tune.report({"status": "completed", "process_id": os.getpid()})
